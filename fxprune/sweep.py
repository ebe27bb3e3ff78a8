"""Many budgets from one scoring run: capture, analysis and scores once, then search and rewriting for each."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxprune.batches import reiterable
from fxprune.budget import Budget, parse_budget
from fxprune.callbacks import noting
from fxprune.compile import compile as compile_model
from fxprune.depth import counted
from fxprune.dropping import without_least
from fxprune.errors import InfeasibleBudget, InputError
from fxprune.evaluating import evaluating
from fxprune.exclusive import exclusive
from fxprune.fingerprint import digest
from fxprune.finished import open_store
from fxprune.front import Front, Point, Stated
from fxprune.plan import Plan
from fxprune.pruning import (
    Making,
    Subject,
    build,
    choose_scorer,
    repairing,
    score_subject,
    understand,
)
from fxprune.scorer import Context
from fxprune.scores import Scores
from fxprune.slim_module import remember
from fxprune.widths import alignment_note, follows_gpu, width_ranges


def sweep(
    model: nn.Module,
    budgets: Sequence[Stated],
    *,
    score: Callable[[nn.Module], float] | None = None,
    **options: Any,
) -> Front:
    """Prune to many budgets and compare: the model is captured, analysed and scored once.

    Args:
        model: the trained model; it is never changed.
        budgets: each as for `compile`. One that cannot be met becomes a point that says so.
        score: model -> float, higher is better: evaluated on the original and on every slim module, in eval mode. The
            scorer gets it too, if it needs it.
        options: all others of `compile`, for all budgets alike. With `checkpoint`, evaluations are remembered too.

    Returns:
        The points, to be printed, written as CSV (`to_csv`) and drawn (`plot`); each holds its slim module.

    Raises:
        InputError: an argument is unusable (also BudgetError for a budget).
        FxpruneError: as `compile` does, apart from InfeasibleBudget.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> front = fxprune.sweep(model, ["75%", "50%"], example_inputs=torch.randn(2, 8))
        >>> [(point.budget, point.plan.widths["0"]) for point in front.points]
        [('75%', (48, 64)), ('50%', (32, 64))]
    """
    given = with_defaults("sweep", {**options, "score": score})
    if isinstance(budgets, str | Mapping) or not isinstance(budgets, Sequence) or not budgets:
        msg = f'budgets is {budgets!r}; pass a list of one or more, such as ["80%", "60%", {{"params": "50%"}}]'
        raise InputError(msg)
    scores = given["scores"] if isinstance(given["scores"], Scores | None) else Scores.load(given["scores"])
    data, collect = reiterable(given["data"]), given["collect"]
    chosen = choose_scorer(given["scorer"], scores, {**given, "model": model, "data": data})
    understanding = {name: given[name] for name in ("ignore", "drop", "strict", "config", "kv_cache")}
    subject = understand(model, given["example_inputs"], data, collect, **understanding)
    limits = [parse_budget(each, subject.whole.costs.original) for each in budgets]
    scoring = {name: given[name] for name in ("loss", "collect", "seed", "align", "floor", "progress")}
    context = Context(model, subject.analysis, data=data, score=score, **scoring)
    wanted = repairing(given["reconstruct"], data, collect)
    with open_store(given["checkpoint"], chosen, context) as store:
        context = replace(context, store=store)
        scores = score_subject(chosen, scores, subject, context)
        subject, own = without_least(subject, scores, counted(given["drop"]), context, strict=given["strict"])
        ranges = width_ranges(subject.analysis, given["align"], given["floor"])
        told = alignment_note(subject.analysis, given["align"])
        fast = follows_gpu(subject.analysis, given["align"])
        making = Making(ranges, given["search"], given["seed"], given["verify"], wanted, told, fast)
        pairs = list(zip(budgets, limits, strict=True))
        tracked = context.track(pairs, "building", len(pairs))
        points = [_point(budget, limit, subject, own, making, scores) for budget, limit in tracked]
        return Front(tuple(points)) if score is None else _evaluated(points, context, making)


def with_defaults(function: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `compile`, those that were given to another function and the defaults of the others.

    Raises:
        TypeError: there is no such argument.
        InputError: the argument is of `compile` alone.
    """
    signature = inspect.signature(compile_model)
    unknown = [name for name in options if name not in signature.parameters or name in ("model", "budget")]
    if unknown:
        msg = f"{function}() got an unexpected keyword argument {unknown[0]!r}"
        raise TypeError(msg)
    if options.get("backend") is not None or options.get("backend_options") is not None:
        msg = f"{function} measures no latency: backend= and backend_options= work with compile alone"
        raise InputError(msg)
    return {name: each.default for name, each in signature.parameters.items()} | dict(options)


def _point(budget: Stated, limits: Budget, subject: Subject, scores: Scores, making: Making, known: Scores) -> Point:
    """One budget; the module remembers the `known` scores, which are of the whole model."""
    before = dict(subject.whole.costs.original)
    try:
        slim = remember(build(subject, scores, limits, making, time.perf_counter()), known)
    except InfeasibleBudget as error:
        return Point(budget, before, reason=str(error))
    after = {metric.name: metric.after for metric in slim.report.metrics}
    return Point(budget, before, after, plan=slim.plan, slim=slim)


@exclusive
def _evaluated(points: Sequence[Point], context: Context, making: Making) -> Front:
    """The points with their scores; slim modules that are alike are evaluated once."""
    assert context.score is not None
    modules: dict[str, nn.Module] = {"score of the original": context.model}
    keys = [None if point.plan is None else _key(point.plan, making) for point in points]
    modules |= {key: point.slim for key, point in zip(keys, points, strict=True) if key and point.slim is not None}
    found = context.evaluate(list(modules), lambda key: {"score": score_of(modules[key], context.score)}, "evaluating")
    scored = [
        point if key is None else replace(point, score=found[key]["score"])
        for key, point in zip(keys, points, strict=True)
    ]
    return Front(tuple(scored), found["score of the original"]["score"])


def _key(plan: Plan, making: Making) -> str:
    """What decides the slim module, beside what the fingerprint of the checkpoint holds."""
    rewriting = making.repairing is not None
    return f"score of {digest([dict(plan.slices), plan.dropped, rewriting])}"


def score_of(model: nn.Module, score: Callable[[nn.Module], float] | None) -> float:
    """What the user's function says of a module, in eval mode and without gradients.

    Raises:
        InputError: it is no finite number.
    """
    assert score is not None
    with evaluating(model), torch.no_grad():
        found = noting("score", score, model)
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        msg = f"score(model) returned {found!r}; it has to return one finite number, higher is better"
        raise InputError(msg)
    return number
