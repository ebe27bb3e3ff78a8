"""Pruning in stages: cut a little, fine-tune, cut further, until the budget is met.

Each stage scores and cuts the module that the one before left, fine-tuned, to a budget between the original's costs and the
final one:

    geometric:  original * (final / original)^(stage / stages)      each stage takes the same share of what is there
    linear:     original + (final - original) * stage / stages      each stage takes the same amount

The cuts compose (`fxprune.compose`), so that the result is one slim module with one plan that speaks of the original: it is
emitted from the original's graph, checked against the original with the cut parts silenced, and then given the weights of
the last stage; that it computes what the last stage's module computes is checked too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fxprune.analysis import holds
from fxprune.batches import reiterable
from fxprune.budget import Budget, format_amount, parse_budget
from fxprune.callbacks import noting
from fxprune.compose import composed, corresponding
from fxprune.depth import counted
from fxprune.errors import InputError, VerificationError
from fxprune.evaluating import evaluating
from fxprune.exclusive import exclusive
from fxprune.finished import open_store
from fxprune.passes.verify import compare
from fxprune.pruning import Making, Subject, build, choose_scorer, repairing, rewrite, score_subject, understand
from fxprune.scorer import Context
from fxprune.scores import Scores
from fxprune.slim_module import SlimModule, attach_report
from fxprune.sweep import with_defaults
from fxprune.widths import Range, alignment_note, follows_gpu, width_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEDULES = ("geometric", "linear")


def iterate(
    model: nn.Module,
    budget: str | float | Mapping[str, str | float],
    *,
    steps: int,
    finetune: Callable[[SlimModule], nn.Module | None],
    schedule: str = "geometric",
    **options: Any,
) -> SlimModule:
    """Prune to a budget in stages, with fine-tuning after each.

    Args:
        model: the trained model; it is never changed.
        budget: of the result, as for `compile`.
        steps: number of stages.
        finetune: trains the slim module that it is given, in place (it returns None), or returns a module with the same
            parameters. It is called after each stage, the last one included, and decides on train and eval mode itself.
        schedule: "geometric" or "linear", how the budgets of the stages are spread.
        options: all others of `compile`. `scores` serves the first stage; with `checkpoint`, each stage has a file of its
            own, its number appended.

    Returns:
        The slim module with the weights of the last stage. Its plan speaks of the original and its `scores` are those of
        the first stage.

    Raises:
        InputError: an argument is unusable, or a group cannot be followed through the stages.
        FxpruneError: as `compile` does.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> slim = fxprune.iterate(model, "25%", steps=2, finetune=lambda slim: None, example_inputs=torch.randn(2, 8))
        >>> slim.plan.widths["0"]
        (16, 64)
    """
    started = time.perf_counter()
    given = with_defaults("iterate", options)
    _check(steps, finetune, schedule)
    if given["config"]:
        msg = "iterate cannot keep to a configuration: its later stages prune a graph, which has none; leave out config=True"
        raise InputError(msg)
    if given["kv_cache"] is not None:
        msg = "iterate cannot count a key/value cache: its later stages prune a graph, which has none; leave out kv_cache="
        raise InputError(msg)
    given["data"] = reiterable(given["data"])
    original = _understand(model, given, given["example_inputs"], given["ignore"], given["drop"])
    limits = parse_budget(budget, original.whole.costs.original)
    ranges = width_ranges(original.analysis, given["align"], given["floor"])
    names = {group.name: group.name for group in original.analysis.groups}
    kept: dict[str, NDArray[np.int64]] = {}
    current, subject, first = model, original, None
    amounts = []
    for stage in range(1, steps + 1):
        between = _between(original.whole.costs.original, limits, stage / steps, schedule)
        scores = _scored(current, subject, given, stage)
        first = first or scores
        own = {name: ranges[known] for name, known in names.items()}
        slim = _built(subject, scores, between, own, given)
        amounts.append(between.limits)
        chosen = {name: np.asarray(indices) for name, indices in slim.plan.kept.items()}
        kept = composed(original.analysis, kept, chosen, names)
        current = _tuned(slim, finetune)
        if stage < steps:
            args, kwargs = slim.example_inputs
            subject = _understand(current, given, args or kwargs, _matching(given["ignore"], current), ())
            names = corresponding(original.analysis, kept, subject.analysis)
    assert first is not None
    return _result(original, first, kept, limits, given, current, _told(amounts), started)


def _check(steps: object, finetune: object, schedule: str) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        msg = f"steps={steps!r} is no positive whole number; pass, for example, steps=3"
        raise InputError(msg)
    if not callable(finetune):
        msg = f"finetune is a {type(finetune).__name__}; pass a function that trains the module that it is given"
        raise InputError(msg)
    if schedule not in SCHEDULES:
        msg = f"schedule={schedule!r} is unknown; pass one of {', '.join(map(repr, SCHEDULES))}"
        raise InputError(msg)


def _understand(model: nn.Module, given: Mapping[str, Any], inputs: Any, ignore: Any, drop: Any) -> Subject:
    if counted(drop) is not None:
        msg = f"drop={drop!r} counts blocks, which `iterate` cannot: pass names of blocks"
        raise InputError(msg)
    return understand(model, inputs, given["data"], given["collect"], ignore=ignore, drop=drop, strict=given["strict"])


def _matching(ignore: Any, model: nn.Module) -> tuple[str, ...]:
    """Patterns that still match something, once blocks are dropped."""
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    return tuple(pattern for pattern in patterns if any(holds(pattern, name) for name in names))


def _between(original: Mapping[str, float], limits: Budget, share: float, schedule: str) -> Budget:
    """The limits of a stage, exactly the final ones at share 1."""
    if share == 1:
        return limits
    amounts = {}
    for metric, limit in limits.limits.items():
        start, end = original[metric], min(limit, original[metric])
        geometric = schedule == "geometric" and start > 0 < end
        amounts[metric] = start * (end / start) ** share if geometric else start + (end - start) * share
    return Budget(amounts, limits.stated)


def _scored(model: nn.Module, subject: Subject, given: Mapping[str, Any], stage: int) -> Scores:
    """Scores of one stage's model."""
    scores = given["scores"] if stage == 1 else None
    scores = scores if isinstance(scores, Scores | None) else Scores.load(scores)
    chosen = choose_scorer(given["scorer"], scores, {**given, "model": model})
    path = None if given["checkpoint"] is None else f"{given['checkpoint']}.{stage}"
    user = {name: given[name] for name in ("data", "loss", "score", "collect", "seed", "progress")}
    context = Context(model, subject.analysis, **user)
    with open_store(path, chosen, context) as store:
        return score_subject(chosen, scores, subject, replace(context, store=store))


def _built(
    subject: Subject, scores: Scores, limits: Budget, ranges: Mapping[str, Range], given: Mapping[str, Any]
) -> SlimModule:
    wanted = repairing(given["reconstruct"], given["data"], given["collect"])
    fast = follows_gpu(subject.analysis, given["align"])
    making = Making(ranges, given["search"], given["seed"], given["verify"], wanted, fast=fast)
    return build(subject, scores, limits, making, time.perf_counter())


@exclusive
def _tuned(slim: SlimModule, finetune: Callable[[SlimModule], nn.Module | None]) -> nn.Module:
    """The module after fine-tuning, which has to have the parameters of the one before."""
    before = {name: tensor.shape for name, tensor in slim.state_dict().items()}
    found = noting("finetune", finetune, slim)
    tuned = slim if found is None else found
    after = {name: t.shape for name, t in tuned.state_dict().items()} if isinstance(tuned, nn.Module) else {}
    if after != before:
        differing = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
        msg = (
            f"finetune returned a {type(tuned).__name__} whose state dict is not that of the slim module "
            f"({differing[0] if differing else 'it has none'}); train the module in place and return nothing"
        )
        raise InputError(msg)
    return tuned


def _result(
    original: Subject,
    scores: Scores,
    kept: Mapping[str, NDArray[np.int64]],
    limits: Budget,
    given: Mapping[str, Any],
    last: nn.Module,
    note: str,
    started: float,
) -> SlimModule:
    """One slim module of the original, with the last stage's weights."""
    groups = original.analysis.groups
    widths = {group.name: kept[group.name].shape[-1] if group.name in kept else group.size for group in groups}
    slim = rewrite(
        original,
        scores,
        widths,
        {name: each for name, each in kept.items() if widths[name] < original.analysis.group(name).size},
        limits,
        Making({}, given["search"], given["seed"], given["verify"], None),  # the weights are those of the last stage
        started,
    )
    slim.load_state_dict(last.state_dict())
    modes = {path: module.training for path, module in last.named_modules()}
    for path, module in slim.named_modules():
        module.training = modes.get(path, module.training)
    _compare(last, slim)
    alignment = alignment_note(original.analysis, given["align"])
    notes = (note, "importance kept is by the first stage's scores", *alignment, *slim.report.notes)
    attach_report(slim, replace(slim.report, notes=notes))
    return slim


@exclusive
def _compare(last: nn.Module, slim: SlimModule) -> None:
    args, kwargs = slim.example_inputs
    with evaluating(last), evaluating(slim), torch.no_grad():
        error, suspicious = compare(tree_leaves(last(*args, **kwargs)), tree_leaves(slim(*args, **kwargs)))
    if suspicious:
        msg = f"the stages do not compose: the result differs from the last stage's module by {error:.1e}"
        raise VerificationError(msg)


def _told(amounts: list[Mapping[str, float]]) -> str:
    stages = ["; ".join(format_amount(metric, each) for metric, each in stage.items()) for stage in amounts]
    return f"pruned in {len(stages)} stages, fine-tuned after each: to at most {', '.join(stages)}"
