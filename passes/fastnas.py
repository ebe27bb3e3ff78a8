"""FastNAS: how much the score drops when one group alone is cut to a width.

    sensitivity_g(w) = score(original) - score(original with g cut to w),   made monotone in w

Which indices go is decided by another scorer (`order`, by default weight magnitude); candidate widths are multiples of the
alignment about 5 % of the size apart. Candidates are evaluated on the original with switches, so none is built or traced.
Where `data` is given, BatchNorm statistics are measured anew for each candidate.

The map of all candidates of all groups is not needed: a curve is monotone, so between two measured widths it can lie only
within their losses. Rounds of evaluations go to the intervals with the largest

    (loss at the narrower - loss at the wider) * (share of the widths between them),

until a share of the exhaustive map is spent (`share`, a third) or nothing is uncertain any more; between measured widths
the curve takes the course of the loss that `order` expects. A group whose narrowest width loses nothing needs no more.
The order of evaluations does not depend on how many processes share them.

A score such as accuracy is flat where little is cut, which tells a search nothing; `smooth` adds the loss that `order`
expects, so scaled that over all groups it makes up that share of the measured loss.

Source: ModelOpt's FastNAS, whose own way is `FastNAS(share=1.0, smooth=0.0)` with `search="threshold"`: each group's
widths in ascending order, the rest left out once one loses less than 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch

from fxprune.callbacks import noting
from fxprune.errors import InputError
from fxprune.passes.recalibrate import batchnorms, recalibrate
from fxprune.passes.silence import SilencedModel, silenced_model
from fxprune.scores import Curve, Scores
from fxprune.search import build_choices
from fxprune.widths import largest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.batches import Batch
    from fxprune.groups import Group
    from fxprune.scorer import Context

NOTHING = 1e-5
"""A drop of the score that counts as none (ModelOpt's value)."""

ORIGINAL = "score of the original"
Known = dict[int, float]
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class FastNAS:
    """Scores by what cutting one group alone does to `score`; needs that, and takes `data` for BatchNorm.

    Attributes:
        order: the scorer that decides which indices go at a width.
        step: distance of candidate widths as a share of a group's size.
        share: share of the exhaustive map that is evaluated at most, beyond one evaluation for each group.
        smooth: share that the loss expected by `order` has of the curves; 0 for the measured loss alone.
        recalibration_batches: batches of `data` for BatchNorm statistics, per evaluation.
    """

    order: str = "magnitude"
    step: float = 0.05
    share: float = 1 / 3
    smooth: float = 0.05
    recalibration_batches: int = 8
    name: str = "fastnas"
    needs: frozenset[str] = field(default=frozenset({"score"}))

    def __post_init__(self) -> None:
        """Refuse options that say nothing."""
        valid = 0 < self.step < 1 and 0 <= self.share <= 1 and self.smooth >= 0 and self.recalibration_batches >= 1
        if not valid:
            msg = f"{self} needs 0 < step < 1, 0 <= share <= 1, smooth >= 0 and recalibration_batches >= 1"
            raise InputError(msg)

    def score(self, context: Context) -> Scores:
        """Importance by `order`, and the sensitivity of every group."""
        from fxprune.scorer import check_needs, find_scorer
        from fxprune.scoring import run_scorer

        ordering = find_scorer(self.order)
        check_needs(ordering, {"data": context.data, "loss": context.loss, "score": context.score})
        ordered = run_scorer(ordering, context)
        candidates = {group.name: candidate_widths(context, group, self.step) for group in context.groups}
        # The same batches for all candidates, also where the data shuffles.
        batches = [] if context.data is None else list(context.batches(self.recalibration_batches))
        trial = Trial(silenced_model(context.analysis, own_weights=True), context, ordered, batches)
        measured = self._measure(trial, candidates, context)
        expected = {group.name: _expected(context, group, ordered, candidates[group.name]) for group in context.groups}
        curves = _curves(candidates, measured, expected, self.smooth)
        effort = {"evaluations": sum(map(len, measured.values())) + 1}
        return Scores(self.name, ordered.importance, curves, effort=effort)

    def _measure(self, trial: Trial, candidates: Mapping[str, tuple[int, ...]], context: Context) -> dict[str, Known]:
        """Score drops by group and width, as many as `share` allows."""
        known: dict[str, Known] = {name: {} for name in candidates}
        base = context.evaluate([ORIGINAL], lambda _: {"score": trial.base()}, "score of the original")[ORIGINAL][
            "score"
        ]
        exhaustive = sum(len(widths) - 1 for widths in candidates.values())
        left = ceil(self.share * exhaustive)
        while places := _next_places(candidates, known, left):
            left -= len(places)
            by_key = {_key(place): place for place in places}
            found = context.evaluate(list(by_key), lambda key: {"score": trial.evaluate(by_key[key])}, "sensitivity")  # noqa: B023
            for key, (name, width) in by_key.items():
                known[name][width] = max(base - found[key]["score"], 0.0)
        return known


def _key(place: Place) -> str:
    return f"score with {place[0]} cut to {place[1]}"


@dataclass(frozen=True, slots=True)
class Trial:
    """Evaluates candidates: the user's score of the original with one group cut.

    Attributes:
        model: the original with switches.
        context: the user's score and data.
        ordered: which indices are kept first.
        batches: for BatchNorm statistics; none to leave them.
    """

    model: SilencedModel
    context: Context
    ordered: Scores
    batches: list[Batch]

    def base(self) -> float:
        """Score of the original."""
        return self._score("the original")

    def evaluate(self, place: Place) -> float:
        """Score with one group cut to a width."""
        name, width = place
        with self.model.silenced({name: largest(self.ordered.importance[name], width)}):
            if not self.batches:
                return self._score(f"{name} cut to {width}")
            statistics = [each.clone() for each in _statistics(self.model)]
            recalibrate(self.model, self.batches)
            found = self._score(f"{name} cut to {width}")
            with torch.no_grad():
                for each, before in zip(_statistics(self.model), statistics, strict=True):
                    each.copy_(before)
            return found

    def _score(self, what: str) -> float:
        assert self.context.score is not None
        self.model.eval()
        before = [each._version for each in self.model.parameters()]
        with torch.no_grad():
            found = noting("score", self.context.score, self.model)
        if before != [each._version for each in self.model.parameters()]:
            msg = (
                "score(model) changed the model's weights; it is called many times on one model and may only evaluate it: "
                "train a copy.deepcopy(model)"
            )
            raise InputError(msg)
        try:
            value = float(found.item() if isinstance(found, np.ndarray) else found)
        except (TypeError, ValueError):
            msg = f"score(model) returned a {type(found).__name__}; it has to return a number, higher is better"
            raise InputError(msg) from None
        if not np.isfinite(value):
            msg = f"score(model) returned {value} for {what}; it has to return a finite number, higher is better"
            raise InputError(msg)
        return value


def _statistics(model: SilencedModel) -> Iterator[torch.Tensor]:
    for layer in batchnorms(model):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        yield layer.running_mean
        yield layer.running_var


def candidate_widths(context: Context, group: Group, step: float) -> tuple[int, ...]:
    """Widths to evaluate: multiples of the alignment about `step` of the size apart, from the floor to the size."""
    limits = context.range_of(group)
    aligned = {round(k * step * group.size / limits.step) * limits.step for k in range(1, ceil(1 / step))}
    return tuple(sorted({each for each in aligned if max(limits.floor, 1) <= each < group.size} | {group.size}))


def _next_places(candidates: Mapping[str, tuple[int, ...]], known: Mapping[str, Known], left: int) -> list[Place]:
    """The next round: first every group's narrowest width, then the middles of the most uncertain intervals."""
    first = [(name, widths[0]) for name, widths in candidates.items() if len(widths) > 1 and not known[name]]
    if first:
        return first
    intervals = [each for name, widths in candidates.items() for each in _intervals(name, widths, known[name])]
    intervals.sort(key=lambda each: -each[0])
    return [place for _, place in intervals[: max(min(left, len(candidates)), 0)]]


def _intervals(name: str, widths: tuple[int, ...], known: Known) -> Iterator[tuple[float, Place]]:
    """How uncertain each stretch between measured widths is, and the width in its middle."""
    loss = _monotone({**known, widths[-1]: 0.0})
    measured = sorted(loss)
    for narrow, wide in pairwise(measured):
        between = [each for each in widths if narrow < each < wide]
        if between and loss[narrow] - loss[wide] > NOTHING:
            uncertainty = (loss[narrow] - loss[wide]) * len(between) / len(widths)
            yield uncertainty, (name, between[len(between) // 2])


def _monotone(known: Known) -> Known:
    """The same, not increasing with the width."""
    found: Known = {}
    worst = 0.0
    for width in sorted(known, reverse=True):
        worst = max(worst, known[width])
        found[width] = worst
    return found


def _expected(context: Context, group: Group, ordered: Scores, widths: tuple[int, ...]) -> NDArray[np.float64]:
    """What the ordering scorer expects each candidate to lose."""
    choices = build_choices(
        group.name,
        group.size,
        ordered.importance[group.name],
        step=1,
        floor=1,
        sensitivity=ordered.sensitivity.get(group.name),
        consumers=group.consumers,
    )
    found: NDArray[np.float64] = np.interp(widths, choices.widths, choices.loss)
    return found


def _curves(
    candidates: Mapping[str, tuple[int, ...]],
    measured: Mapping[str, Known],
    expected: Mapping[str, NDArray[np.float64]],
    smooth: float,
) -> dict[str, Curve]:
    """Measured drops, interpolated, with the expected losses blended in."""
    drops = {name: _interpolated(widths, measured[name], expected[name]) for name, widths in candidates.items()}
    total = sum(each.sum() for each in drops.values())
    reference = sum(each.sum() for each in expected.values())
    scale = smooth * (total or 1.0) / reference if reference > 0 else 0.0
    return {
        name: Curve(widths, tuple((drops[name] + scale * expected[name]).tolist()))
        for name, widths in candidates.items()
    }


def _interpolated(widths: tuple[int, ...], known: Known, expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops at all widths; between measured ones they follow the expected loss, from one measured drop to the next."""
    loss = _monotone({**known, widths[-1]: 0.0})
    measured = [at for at, width in enumerate(widths) if width in loss]
    # A little of the position keeps the expected loss strictly falling, as np.interp needs.
    course = expected + 1e-6 * (expected[0] or 1.0) * (1 - np.arange(len(widths)) / len(widths))
    points = course[measured][::-1]
    found: NDArray[np.float64] = np.interp(course, points, [loss[widths[at]] for at in measured][::-1])
    return found
