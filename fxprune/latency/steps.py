"""Alignment learnt from measured times: the multiple that widths are worth keeping to on a backend.

Hardware computes in tiles: a width just above a multiple of the tile may take as long as the next multiple, so that the narrower
one loses accuracy for nothing. Whether it does, and where, is measured. Along one axis of a fragment, at the widths between
two multiples of A, with f the fraction of the way from the lower multiple to the upper one and D the difference of their times,

    t(w) = t(lower) + f D + c (1 - f) D,

c is 0 where time grows in proportion, and 1 where all widths in between take as long as the upper multiple (above 1: longer). For
twice the tile it is between 0.33 and 0.43. Each kind of fragment is asked at those that take most time. The median of c over all
their widths counts, weighted by that time, which outliers do not move, even all of one fragment, and the largest A = step 2^k
for which it is at least LIKE_A_STEP is what widths are kept to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.analysis import Analysis
from fxprune.axes import Variable, leaves
from fxprune.latency.basis import Floats, Ints
from fxprune.latency.fragments import Fragment

LIKE_A_STEP = 0.7
LEAST_RISE = 0.02
"""Of the time, from one multiple to the next: less cannot be told from noise, or from none at all."""
LARGEST = 64
"""The largest multiple that is looked for."""
ASKED = 2
"""Fragments of each kind that are asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Widths of one group between two multiples of LARGEST, everything else at its original size.

    Attributes:
        fragment: what is timed.
        column: the group's position.
        own: its widths, ascending by the step, both multiples included.
        widths: of all groups, `[len(own), groups]`.
    """

    fragment: Fragment
    column: int
    own: Ints
    widths: Ints


def probes_of(analysis: Analysis, fragments: Sequence[tuple[Fragment, float]], step: int) -> list[Probe]:
    """Where to ask.

    Args:
        analysis: groups and their sizes.
        fragments: with the seconds that all alike ones take together.
        step: the multiple that widths are kept to anyway.
    """
    by_kind: dict[str, list[tuple[float, Fragment]]] = defaultdict(list)
    for fragment, seconds in fragments:
        if any(_column(analysis, axis) is not None for axis in fragment.basis):
            by_kind[fragment.kind].append((seconds, fragment))
    asked = [each for found in by_kind.values() for _, each in sorted(found, key=lambda pair: -pair[0])[:ASKED]]
    columns = [(each, _column(analysis, axis)) for each in asked for axis in each.basis]
    return [_probe(analysis, each, column, step) for each, column in columns if column is not None]


def _column(analysis: Analysis, axis: object) -> int | None:
    """Position of the group that an axis is, if it is one and wide enough to tell."""
    for at, group in enumerate(analysis.groups):
        if group.variable is axis and group.size >= 2 * LARGEST:
            return at
    return None


def _probe(analysis: Analysis, fragment: Fragment, column: int, step: int) -> Probe:
    """From the multiple of LARGEST at or below three quarters of the size down to the one before."""
    upper = max(int(analysis.groups[column].size * 0.75) // LARGEST, 2) * LARGEST
    own = np.arange(upper - LARGEST, upper + 1, step, dtype=np.int64)
    widths = np.array([[group.size for group in analysis.groups]] * len(own), dtype=np.int64)
    widths[:, column] = own
    return Probe(fragment, column, own, widths)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Times along one axis.

    Attributes:
        own: widths.
        seconds: at each.
        weight: of the curve among others.
    """

    own: Ints
    seconds: Floats
    weight: float = 1.0


def step_in(curves: Sequence[Curve], step: int) -> int:
    """The multiple that times along some axes ask for: `step`, or a power of two times it.

    Example:
        >>> widths = np.arange(64, 129, 8)
        >>> step_in([Curve(widths, np.ceil(widths / 32) * 32.0)], 8), step_in([Curve(widths, widths * 1.0)], 8)
        (32, 8)
    """
    multiple = LARGEST
    while multiple > step:
        if multiple % step == 0 and likeness(curves, multiple) >= LIKE_A_STEP:
            return multiple
        multiple //= 2
    return step


def likeness(curves: Sequence[Curve], multiple: int) -> float:
    """How much times between multiples are like those of the next multiple: the median of c of the module's docstring."""
    found, weights = list[float](), list[float]()
    for curve in curves:
        between = list(_between(curve, multiple))
        found += between
        weights += [curve.weight / len(between)] * len(between)
    return _weighted_median(np.array(found), np.array(weights)) if found else 0.0


def _between(curve: Curve, multiple: int) -> Iterator[float]:
    """What c is at each width between two multiples that were timed."""
    time = dict(zip(curve.own.tolist(), curve.seconds.tolist(), strict=True))
    for width in time:
        lower, upper = width // multiple * multiple, -(-width // multiple) * multiple
        if lower != upper and lower in time and upper in time:
            fraction = (width - lower) / multiple
            difference = max(time[upper] - time[lower], LEAST_RISE * time[upper], 1e-12)
            yield (time[width] - time[lower] - fraction * difference) / ((1 - fraction) * difference)


def _weighted_median(values: Floats, weights: Floats) -> float:
    """The value with half of the weight below it; between two, where exactly half is."""
    order = np.argsort(values, kind="stable")
    values, below = values[order], np.cumsum(weights[order])
    at = int(np.searchsorted(below, below[-1] / 2 * (1 - 1e-9)))
    even = at + 1 < len(values) and np.isclose(below[at], below[-1] / 2)
    return float((values[at] + values[at + 1]) / 2 if even else values[at])


def learnt_align(
    answers: Sequence[tuple[Probe, Floats]], weights: Mapping[Fragment, float], step: int
) -> dict[str, int]:
    """The multiple for each kind of fragment that was asked.

    Args:
        answers: probes with the seconds at their widths.
        weights: seconds that all fragments like one take together.
        step: the multiple that widths are kept to anyway.
    """
    curves: dict[str, list[Curve]] = defaultdict(list)
    for probe, seconds in answers:
        curves[probe.fragment.kind].append(Curve(probe.own, seconds, weights[probe.fragment]))
    return {kind: step_in(found, step) for kind, found in curves.items()}


def align_of_groups(
    analysis: Analysis, fragments: Sequence[tuple[Fragment, float]], learnt: Mapping[str, int]
) -> dict[str, int]:
    """The multiple for each group: of the kind of fragment where it spends most time, or the part that leaves two widths.

    Args:
        analysis: the groups.
        fragments: with the seconds that each takes.
        learnt: multiples by kind.
    """
    spent: dict[Variable, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for fragment, seconds in fragments:
        for leaf in {leaf for axis in fragment.basis for leaf in leaves(axis)}:
            spent[leaf][fragment.kind] += seconds
    found = {}
    for group in analysis.groups:
        kinds = spent.get(group.variable, {})
        multiple = learnt.get(max(kinds, key=lambda kind: kinds[kind]), 1) if kinds else 1
        while multiple > 1 and 2 * multiple > group.size:
            multiple //= 2
        found[group.name] = multiple
    return found
