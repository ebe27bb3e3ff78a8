"""Alignment learnt from measured times: the multiple that widths are worth keeping to on a backend.

Hardware computes in tiles: a width just above a multiple of the tile may take as long as the next multiple, so that the narrower
one loses accuracy for nothing. Whether it does, and where, is measured. Along one axis of a fragment, at the widths between
two multiples of A, with f the fraction of the way from the lower multiple to the upper one and D the difference of their times,

    t(w) = t(lower) + f D + c (1 - f) D,

c is 0 where time grows in proportion, and 1 where all widths in between take as long as the upper multiple (above 1: longer). Its
median over all of them counts, which single outliers do not move, and the largest A = step 2^k with c of at least LIKE_A_STEP is
what widths are kept to. Each kind of fragment is asked at those that take most time; the answer with most time behind it counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.analysis import Analysis
from fxprune.axes import Variable, leaves
from fxprune.latency.basis import Floats, Ints
from fxprune.latency.fragments import Fragment

LIKE_A_STEP = 0.6
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


def step_in(own: Ints, seconds: Floats, step: int) -> int:
    """The multiple that the times along one axis ask for: `step`, or a power of two times it.

    Example:
        >>> widths = np.arange(64, 129, 8)
        >>> step_in(widths, np.ceil(widths / 32) * 32.0, 8), step_in(widths, widths * 1.0, 8)
        (32, 8)
    """
    multiple = LARGEST
    while multiple > step:
        if multiple % step == 0 and likeness(own, seconds, multiple) >= LIKE_A_STEP:
            return multiple
        multiple //= 2
    return step


def likeness(own: Ints, seconds: Floats, multiple: int) -> float:
    """How much times between multiples are like those of the next multiple: c of the module's docstring."""
    time = dict(zip(own.tolist(), seconds.tolist(), strict=True))
    found = []
    for width in own.tolist():
        lower, upper = width // multiple * multiple, -(-width // multiple) * multiple
        if lower != upper and lower in time and upper in time:
            fraction = (width - lower) / multiple
            difference = max(time[upper] - time[lower], LEAST_RISE * time[upper], 1e-12)
            found.append((time[width] - time[lower] - fraction * difference) / ((1 - fraction) * difference))
    return float(np.median(found)) if found else 0.0


def learnt_align(
    answers: Sequence[tuple[Probe, Floats]], weights: Mapping[Fragment, float], step: int
) -> dict[str, int]:
    """The multiple for each kind of fragment that was asked: that of the answers with most time behind them.

    Args:
        answers: probes with the seconds at their widths.
        weights: seconds that all fragments like one take together.
        step: the multiple that widths are kept to anyway.
    """
    votes: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for probe, seconds in answers:
        votes[probe.fragment.kind][step_in(probe.own, seconds, step)] += weights[probe.fragment]
    return {kind: max(found, key=lambda each: (found[each], each)) for kind, found in votes.items()}


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
