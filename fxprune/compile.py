"""The whole way on one screen: capture, analyze, score, search, rewrite, verify, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.analysis import Analysis, analyze_program
from fxprune.batches import example_from, reiterable
from fxprune.blocks import Block
from fxprune.budget import Budget, parse_budget
from fxprune.capture import capture
from fxprune.cut import Cut
from fxprune.depth import choose_blocks, without_blocks
from fxprune.errors import InfeasibleBudget, InputError, PluginError
from fxprune.finished import open_store, recall_scores
from fxprune.passes.bypass import verify_drop
from fxprune.passes.slim import slim_graph
from fxprune.passes.verify import verify as verify_slim
from fxprune.plan import Plan, difference, kept_lists, signature_of, slices_of, widths_of
from fxprune.report import Outcome, make_report, what_holds
from fxprune.scorer import Context, Scorer, check_needs, check_scores, find_scorer, fitting_scorer, run_scorer
from fxprune.scores import Scores
from fxprune.search import build_choices
from fxprune.search import search as search_widths
from fxprune.slim_module import SlimModule, assemble, attach_report
from fxprune.version import __version__
from fxprune.widths import Align, Floor, Range, keep_most_important, width_ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    scores: Scores | str | PathLike[str] | None = None,
    ignore: Sequence[str] = (),
    align: Align | None = None,
    floor: Floor | None = None,
    drop: Sequence[str] = (),
    search: str = "knapsack",
    seed: int = 0,
    strict: bool = False,
    verify: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
) -> SlimModule:
    """Make a smaller dense model that meets a budget.

    Args:
        model: the trained model; it is never changed, and the result shares no memory with it.
        budget: share of the original FLOPs ("50%", 0.5), or a mapping of `flops`, `params`, `memory` (bytes: weights
            and peak activations at the example inputs) to a share or an absolute number ("1.8 GFLOPs", 12e6, "40
            MB"). All hold. One FLOP is one multiply or one add.
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them: one sample of the first batch
            of `data`, or else what the model says.
        scorer: "auto", the name of a scorer, or an object with `name`, `needs` and `score(context)`.
        data: batches for scorers that need them.
        loss: (output, batch) -> scalar tensor, for scorers that need it.
        score: model -> float, higher is better, for scorers that need it.
        collect: batch -> inputs, where a batch is not what `forward` takes.
        scores: of an earlier run on this model (`slim.scores`, or a file that it was saved to), to be used instead of
            scoring again.
        ignore: names of modules or parameters, or `fnmatch` patterns, whose tensors keep their shape.
        align: the multiple that widths are kept to, for all groups or by name or pattern; None for 8, and less for layers
            too narrow for that.
        floor: smallest share (float) or number (int) of indices that a group keeps, for all groups or by name or
            pattern; None for 5 %.
        drop: blocks to drop whole, by name or `fnmatch` pattern (`analyze(model).blocks` lists them); the budget
            stays relative to the whole model.
        search: "knapsack" (least total loss), "threshold" (one bound on every loss) or "uniform" (one ratio for all).
        seed: for scorers that draw random numbers.
        strict: raise where an operation has no rule, instead of leaving alone what it touches.
        verify: compare the result with the original, its cut parts silenced, before returning it.
        checkpoint: file for finished work of the scorer; if the run is interrupted, the same call goes on from there.
        progress: show on the terminal how far long work is.

    Returns:
        The slim module, with `.report`, `.plan` and `.scores`.

    Raises:
        InputError: an argument is unusable (also BudgetError for the budget), or a block cannot be dropped.
        CaptureError: the model cannot be captured.
        InfeasibleBudget: no choice of widths meets the budget; says the smallest value reachable and what holds it
            there.
        CheckpointError: the checkpoint is damaged, in use, or of another run.
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
    scores = Scores.load(scores) if isinstance(scores, str | PathLike) else scores
    data = reiterable(data)
    chosen = choose_scorer(scorer, scores, {"data": data, "loss": loss, "score": score})
    subject = understand(model, example_inputs, data, collect, ignore=ignore, drop=drop, strict=strict)
    limits = parse_budget(budget, subject.whole.costs.original)
    context = Context(model, subject.analysis, data, loss, score, collect, seed, align, floor, progress=progress)
    with open_store(checkpoint, chosen, context) as store:
        scores = score_subject(chosen, scores, subject, replace(context, store=store))
    ranges = width_ranges(subject.analysis, align, floor)
    return build(subject, scores, limits, ranges, search, seed, verify=verify, started=started)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be pruned, analysed.

    Attributes:
        whole: the analysis of the whole model.
        dropped: the blocks that go whole.
        analysis: that of the model without them.
        ignore: patterns of what has to keep its shape.
    """

    whole: Analysis
    dropped: tuple[Block, ...]
    analysis: Analysis
    ignore: tuple[str, ...]


def understand(
    model: nn.Module,
    example_inputs: Any,
    data: Iterable[Any] | None,
    collect: Callable[[Any], Any] | None,
    *,
    ignore: Sequence[str],
    drop: Sequence[str],
    strict: bool,
) -> Subject:
    """Capture and analyze; without example inputs, one sample of the data's first batch serves."""
    notes: tuple[str, ...] = ()
    if example_inputs is None and data is not None and isinstance(model, nn.Module):
        example_inputs, note = example_from(data, model, collect)
        notes = (note,)
    program = capture(model, example_inputs)
    program = replace(program, notes=(*notes, *program.notes))
    whole = analyze_program(program, ignore=ignore, strict=strict)
    dropped = choose_blocks(whole, drop)
    analysis = without_blocks(whole, dropped, ignore=ignore, strict=strict)
    return Subject(whole, dropped, analysis, (ignore,) if isinstance(ignore, str) else tuple(ignore))


def build(
    subject: Subject,
    scores: Scores,
    limits: Budget,
    ranges: Mapping[str, Range],
    search: str,
    seed: int,
    *,
    verify: bool,
    started: float,
) -> SlimModule:
    """Search within the ranges of widths, then rewrite."""
    widths = _search(subject.analysis, scores, limits, ranges, search)
    kept = keep_most_important(subject.analysis.groups, scores, widths)
    return rewrite(subject, scores, widths, kept, limits, search, seed, verify=verify, started=started)


def rewrite(
    subject: Subject,
    scores: Scores,
    widths: Mapping[str, int],
    kept: Mapping[str, NDArray[np.int64]],
    limits: Budget,
    search: str,
    seed: int,
    *,
    verify: bool,
    started: float,
) -> SlimModule:
    """Emit the slim module that keeps these indices, verify it and report."""
    whole, dropped, analysis = subject.whole, subject.dropped, subject.analysis
    cut = analysis.cut(kept)
    plan = _plan(subject, cut, kept, widths, limits, scores.scorer, search, seed)
    slim = assemble(analysis.program, slim_graph(analysis.program, analysis.propagation, cut), plan, scores)
    error = _verify(whole, dropped, analysis, cut, slim) if verify else None
    original = whole.costs.original
    outcome = Outcome(analysis, scores, widths, limits, search, error, time.perf_counter() - started, original, dropped)
    attach_report(slim, make_report(outcome))
    return slim


def _verify(whole: Analysis, dropped: Sequence[Block], analysis: Analysis, cut: Cut, slim: SlimModule) -> float:
    """Largest relative error of what was dropped and of what was cut."""
    error = verify_drop(whole.program, dropped, analysis.program) if dropped else 0.0
    return max(error, verify_slim(analysis.program, analysis.propagation, cut, slim))


def choose_scorer(scorer: str | Scorer, scores: Scores | None, given: Mapping[str, object]) -> Scorer | None:
    """The scorer to run; None where scores are given.

    Args:
        scorer: "auto", a name or an object.
        scores: those of an earlier run.
        given: what the user gave of data, loss and score.
    """
    if scores is not None:
        if scorer != "auto":
            msg = "both scores= and scorer= are given; scores= replaces scoring, so leave scorer= out"
            raise InputError(msg)
        return None
    return find_scorer(fitting_scorer(given) if scorer == "auto" else scorer)


def score_subject(scorer: Scorer | None, scores: Scores | None, subject: Subject, context: Context) -> Scores:
    """The scores given, checked, or those of the scorer."""
    signature = signature_of(subject.whole.program)
    if scorer is None:
        return _check_given(scores, context, signature)
    check_needs(scorer, {"data": context.data, "loss": context.loss, "score": context.score})
    return replace(recall_scores(context.store, scorer.name, lambda: run_scorer(scorer, context)), signature=signature)


def _check_given(
    scores: Scores | None, context: Context, signature: Mapping[str, tuple[tuple[int, ...], str]]
) -> Scores:
    if not isinstance(scores, Scores):
        msg = f"scores is a {type(scores).__name__}; pass the scores of an earlier run, such as slim.scores, or a file"
        raise InputError(msg)
    if scores.signature and scores.signature != signature:
        msg = (
            f"scores= belongs to another model: {difference(scores.signature, signature)}. Leave it out to score again"
        )
        raise InputError(msg)
    try:
        check_scores(scores, context.groups)
    except PluginError as error:
        msg = f"scores= belongs to another model: {error}. Leave scores= out to score again"
        raise InputError(msg) from None
    return scores


def _search(
    analysis: Analysis, scores: Scores, limits: Budget, ranges: Mapping[str, Range], method: str
) -> dict[str, int]:
    """Width of every group, within the budget."""
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


def _plan(
    subject: Subject,
    cut: Cut,
    kept: Mapping[str, NDArray[np.int64]],
    widths: Mapping[str, int],
    limits: Budget,
    scorer: str,
    method: str,
    seed: int,
) -> Plan:
    """The decision as data."""
    analysis = subject.analysis
    return Plan(
        kept=kept_lists(kept),
        slices=slices_of(analysis.program, analysis.propagation, cut),
        widths=widths_of(analysis.groups, widths),
        ignore=subject.ignore,
        dropped=tuple(block.name for block in subject.dropped),
        budget=dict(limits.stated),
        scorer=scorer,
        search=method,
        seed=seed,
        signature=signature_of(subject.whole.program),
        versions={"fxprune": __version__, "torch": str(torch.__version__)},
    )
