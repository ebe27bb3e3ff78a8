"""At which widths a fragment is timed: a grid over the sizes of its basis.

From the narrowest width that a group may be cut to up to its original one, aligned as the search aligns them. Few levels do
where there are several axes, since a time is close to linear in each of them. With more than three axes all groups are scaled
together, and the one axis of the table is the mean share that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from fxprune.analysis import Analysis
from fxprune.axes import Axis, Variable, leaves
from fxprune.latency.basis import Floats, Ints, columns_of, sizes_at
from fxprune.widths import Range

SHARES: Mapping[int, tuple[float, ...]] = {1: (0.0, 0.25, 0.5, 0.75, 1.0), 2: (0.0, 0.5, 1.0), 3: (0.0, 1.0)}
"""Levels of each axis by the number of axes, as shares of the original size; 0 is the narrowest."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where a fragment is timed.

    Attributes:
        levels: of each axis of the table its coordinates, ascending.
        widths: of all groups at each point, `[points, groups]`, in the order of a table's flat entries.
    """

    levels: tuple[Floats, ...]
    widths: Ints


def grid_of(analysis: Analysis, basis: tuple[Axis, ...], ranges: Mapping[str, Range]) -> Grid:
    """The grid over a basis; groups that are not in it keep their sizes."""
    if len(basis) not in SHARES:
        return _joint(analysis, basis, ranges)
    groups = columns_of(analysis.groups)
    axes = [_levels(analysis, axis, ranges, groups, SHARES[len(basis)]) for axis in basis]
    widths = np.array([_merged(analysis, choice) for choice in product(*(rows for _, rows in axes))])
    return Grid(tuple(levels for levels, _ in axes), widths)


def coordinates(basis: tuple[Axis, ...], groups: Mapping[Variable, int], widths: Ints) -> Floats:
    """Where candidates `[candidates, groups]` lie in the table of a basis, `[axes, candidates]`."""
    sizes = np.array([sizes_at(axis, groups, widths) for axis in basis])
    if len(basis) in SHARES:
        return sizes
    shares = sizes / np.array([[axis.size] for axis in basis])
    return np.asarray(np.mean(shares, axis=0, keepdims=True))


def aligned(size: int, span: Range, share: float) -> int:
    """The allowed width nearest to a share of the way from the narrowest to the original one."""
    smallest = min(-(-span.floor // span.step) * span.step, size)
    width = round((smallest + share * (size - smallest)) / span.step) * span.step
    return size if share == 1 else int(min(max(width, smallest), size))


def _levels(
    analysis: Analysis,
    axis: Axis,
    ranges: Mapping[str, Range],
    groups: Mapping[Variable, int],
    shares: tuple[float, ...],
) -> tuple[Floats, list[dict[int, int]]]:
    """Sizes of one axis, and the widths of its groups that make them."""
    columns = {groups[leaf]: leaf for leaf in leaves(axis) if leaf in groups}
    found: dict[float, dict[int, int]] = {}
    for share in shares:
        chosen = {at: aligned(leaf.size, ranges[analysis.groups[at].name], share) for at, leaf in columns.items()}
        (size,) = sizes_at(axis, groups, _merged(analysis, (chosen,))[None])
        found[float(size)] = chosen
    ordered = sorted(found)
    return np.array(ordered), [found[size] for size in ordered]


def _merged(analysis: Analysis, choices: tuple[dict[int, int], ...]) -> Ints:
    widths = np.array([group.size for group in analysis.groups], dtype=np.int64)
    for at, width in (pair for choice in choices for pair in choice.items()):
        widths[at] = width
    return widths


def _joint(analysis: Analysis, basis: tuple[Axis, ...], ranges: Mapping[str, Range]) -> Grid:
    """All groups of the basis scaled together."""
    groups = columns_of(analysis.groups)
    columns = {groups[leaf]: leaf for axis in basis for leaf in leaves(axis) if leaf in groups}
    rows = [
        _merged(
            analysis,
            ({at: aligned(leaf.size, ranges[analysis.groups[at].name], share) for at, leaf in columns.items()},),
        )
        for share in SHARES[1]
    ]
    widths = np.array(rows)
    levels, first = np.unique(coordinates(basis, groups, widths)[0], return_index=True)
    return Grid((levels,), widths[first])


def random_widths(analysis: Analysis, ranges: Mapping[str, Range], seed: int) -> Iterator[Ints]:
    """Plans at random, one after the other: a share for the whole model, and every group somewhere around it."""
    generator = np.random.default_rng(seed)
    while True:
        share = generator.uniform(0.2, 0.95)
        own = np.clip(generator.normal(share, 0.2, len(analysis.groups)), 0.0, 1.0)
        yield np.array(
            [
                aligned(group.size, ranges[group.name], float(each))
                for group, each in zip(analysis.groups, own, strict=True)
            ],
            dtype=np.int64,
        )
