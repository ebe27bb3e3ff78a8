"""The whole way on one screen: capture, analyze, score, search, rewrite, verify, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis import Analysis, analyze_program
from fxprune.batches import reiterable
from fxprune.blocks import Block
from fxprune.budget import Budget, parse_budget
from fxprune.capture import capture
from fxprune.cut import Cut
from fxprune.depth import choose_blocks, without_blocks
from fxprune.errors import InfeasibleBudget, InputError, PluginError
from fxprune.passes.bypass import verify_drop
from fxprune.passes.repair import repair
from fxprune.passes.slim import slim_graph
from fxprune.passes.verify import verify as verify_slim
from fxprune.plan import Plan, kept_lists, signature_of, slices_of, widths_of
from fxprune.report import Outcome, make_report, what_holds
from fxprune.scorer import Context, Scorer, check_needs, check_scores, find_scorer, run_scorer
from fxprune.scores import Scores
from fxprune.search import build_choices
from fxprune.search import search as search_widths
from fxprune.slim_module import SlimModule, assemble, attach_report
from fxprune.version import __version__
from fxprune.widths import Floor, keep_most_important, width_ranges


def compile(
    model: nn.Module,
    budget: str | float | Mapping[str, str | float],
    *,
    example_inputs: Any = None,
    scorer: str | Scorer = "auto",
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    score: Callable[[nn.Module], float] | None = None,
    collect: Callable[[Any], Any] | None = None,
    scores: Scores | None = None,
    ignore: Sequence[str] = (),
    align: int | None = None,
    floor: Floor | None = None,
    drop: Sequence[str] = (),
    search: str = "knapsack",
    seed: int = 0,
    strict: bool = False,
    verify: bool = True,
    reconstruct: bool | None = None,
) -> SlimModule:
    """Make a smaller dense model that meets a budget.

    Args:
        model: the trained model; it is never changed, and the result shares no memory with it.
        budget: share of the original FLOPs ("50%", 0.5), or a mapping of `flops`, `params`, `memory` (bytes: weights
            and peak activations at the example inputs) to a share or an absolute number ("1.8 GFLOPs", 12e6, "40
            MB"). All hold. One FLOP is one multiply or one add.
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them from the model.
        scorer: "auto", the name of a scorer, or an object with `name`, `needs` and `score(context)`.
        data: calibration batches, without labels unless a loss needs them: for scorers, and to repair weights.
        loss: (output, batch) -> scalar tensor, for scorers that need it.
        score: model -> float, higher is better, for scorers that need it.
        collect: batch -> inputs, where a batch is not what `forward` takes.
        scores: of an earlier run on this model (`slim.scores`), to be used instead of scoring again.
        ignore: names of modules or parameters, or `fnmatch` patterns, whose tensors keep their shape.
        align: the multiple that widths are kept to; None for 8, and less for layers too narrow for that.
        floor: smallest share (float) or number (int) of indices that a group keeps, for all groups or by name or
            pattern; None for 5 %.
        drop: blocks to drop whole, by name or `fnmatch` pattern (`analyze(model).blocks` lists them); the budget
            stays relative to the whole model.
        search: "knapsack" (least total loss), "threshold" (one bound on every loss) or "uniform" (one ratio for all).
        seed: for scorers that draw random numbers.
        strict: raise where an operation has no rule, instead of leaving alone what it touches.
        verify: compare the result with the original, its cut parts silenced, before returning it.
        reconstruct: solve, with `data`, for the weights that best restore what each layer computed before the cut, and
            recalibrate BatchNorm; None to do so where `data` is given, False to leave weights as cut.

    Returns:
        The slim module, with `.report`, `.plan` and `.scores`.

    Raises:
        InputError: an argument is unusable (also BudgetError for the budget), or a block cannot be dropped.
        CaptureError: the model cannot be captured.
        InfeasibleBudget: no choice of widths meets the budget; says the smallest value reachable and what holds it
            there.
        VerificationError: the result is not what it has to be (a bug; nothing is handed out).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> slim = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8))
        >>> slim(torch.randn(5, 8)).shape, slim.plan.widths["0"]
        (torch.Size([5, 4]), (32, 64))
    """
    started = time.perf_counter()
    data = reiterable(data)
    chosen = _choose_scorer(scorer, scores, {"data": data, "loss": loss, "score": score})
    whole = analyze_program(capture(model, example_inputs), ignore=ignore, strict=strict)
    limits = parse_budget(budget, whole.costs.original)
    dropped = choose_blocks(whole, drop)
    analysis = without_blocks(whole, dropped, ignore=ignore, strict=strict)
    context = Context(model, analysis, data, loss, score, collect, seed)
    scores = _score(chosen, scores, context)
    widths = _search(analysis, scores, limits, align, floor, search)
    cut, plan = _decide(analysis, scores, widths, limits, search, seed)
    plan = replace(
        plan,
        ignore=(ignore,) if isinstance(ignore, str) else tuple(ignore),
        dropped=tuple(block.name for block in dropped),
        signature=signature_of(whole.program),
    )
    slim = assemble(analysis.program, slim_graph(analysis.program, analysis.propagation, cut), plan, scores)
    error = _verify(whole, dropped, analysis, cut, slim) if verify else None
    wanted = data is not None if reconstruct is None else reconstruct
    notes = repair(analysis, cut, slim, data, collect, seed=seed) if wanted else ()
    original, seconds = whole.costs.original, time.perf_counter() - started
    outcome = Outcome(analysis, scores, widths, limits, search, error, seconds, original, dropped, notes)
    attach_report(slim, make_report(outcome))
    return slim


def _verify(whole: Analysis, dropped: Sequence[Block], analysis: Analysis, cut: Cut, slim: SlimModule) -> float:
    """Largest relative error of what was dropped and of what was cut."""
    error = verify_drop(whole.program, dropped, analysis.program) if dropped else 0.0
    return max(error, verify_slim(analysis.program, analysis.propagation, cut, slim))


def _choose_scorer(scorer: str | Scorer, scores: Scores | None, given: Mapping[str, object]) -> Scorer | None:
    """The scorer to run; None where scores are given. "auto" is obs where there is data and nothing else, or magnitude."""
    if scores is not None:
        if scorer != "auto":
            msg = "both scores= and scorer= are given; scores= replaces scoring, so leave scorer= out"
            raise InputError(msg)
        return None
    only_data = [name for name, value in given.items() if value is not None] == ["data"]
    return find_scorer(("obs" if only_data else "magnitude") if scorer == "auto" else scorer)


def _score(scorer: Scorer | None, scores: Scores | None, context: Context) -> Scores:
    if scorer is None:
        if not isinstance(scores, Scores):
            msg = f"scores is a {type(scores).__name__}; pass the scores of an earlier run, for example slim.scores"
            raise InputError(msg)
        try:
            check_scores(scores, context.groups)
        except PluginError as error:
            msg = f"scores= belongs to another model: {error}. Leave scores= out to score again"
            raise InputError(msg) from None
        return scores
    check_needs(scorer, {"data": context.data, "loss": context.loss, "score": context.score})
    return run_scorer(scorer, context)


def _search(
    analysis: Analysis, scores: Scores, limits: Budget, align: int | None, floor: Floor | None, method: str
) -> dict[str, int]:
    """Width of every group, within the budget."""
    ranges = width_ranges(analysis, align, floor)
    choices = [
        build_choices(
            group.name,
            group.size,
            scores.importance[group.name],
            step=ranges[group.name].step,
            floor=ranges[group.name].floor,
            sensitivity=scores.sensitivity.get(group.name),
            consumers=group.consumers,
        )
        for group in analysis.groups
    ]
    try:
        return search_widths(analysis.costs, limits.limits, choices, method)
    except InfeasibleBudget as error:
        smallest = {each.group: int(each.widths[0]) for each in choices}
        msg = f"{error}\n{what_holds(analysis, smallest)}"
        raise InfeasibleBudget(msg, error.shortfalls) from None


def _decide(
    analysis: Analysis, scores: Scores, widths: Mapping[str, int], limits: Budget, method: str, seed: int
) -> tuple[Cut, Plan]:
    """The indices to keep at these widths, as a cut and as a plan."""
    kept = keep_most_important(analysis.groups, scores, widths)
    cut = analysis.cut(kept)
    plan = Plan(
        kept=kept_lists(kept),
        slices=slices_of(analysis.program, analysis.propagation, cut),
        widths=widths_of(analysis.groups, widths),
        budget=dict(limits.stated),
        scorer=scores.scorer,
        search=method,
        seed=seed,
        versions={"fxprune": __version__, "torch": str(torch.__version__)},
    )
    return cut, plan
