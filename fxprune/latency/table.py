"""Tables: seconds over a grid of sizes, interpolated.

Between grid points time is multilinear: with k axes, and for each the two neighbouring levels l0 <= x <= l1 and the weight
w = (x - l0) / (l1 - l0),

    t(x) = sum over corners c in {0, 1}^k of  t[l_c]  prod_axes (w if c else 1 - w).

Two levels of each axis already say everything about a time a + b m + c n + d m n, as a product of an m and an n wide matrix
takes; further levels follow what caches and tiles make of it. Outside the grid the nearest edge holds.

The *envelope* is what a search needs, which relies on a narrower width never being slower: the least time of all that is at
least as wide, `min over y >= x of t(y)`. Where it lies below the time itself, a wider width is as fast: accuracy for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from fxprune.latency.basis import Floats

MOST_LOOKED_UP = 1 << 22
"""Entries of an array of all whole sizes: 32 MB."""
SUSPICIOUS = 1.1
"""Times above that of wider sizes by this factor are measured again."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Seconds over a grid.

    Attributes:
        levels: of each axis its sizes, ascending.
        seconds: [levels of the first axis, of the second, ...].
    """

    levels: tuple[Floats, ...]
    seconds: Floats

    def __post_init__(self) -> None:
        """Check the order and the shape."""
        assert self.seconds.shape == tuple(len(each) for each in self.levels)
        assert all((np.diff(each) > 0).all() for each in self.levels)
        assert np.isfinite(self.seconds).all()

    def at(self, sizes: Floats) -> Floats:
        """Seconds `[candidates]` at sizes `[axes, candidates]`."""
        places = [_place(levels, own) for levels, own in zip(self.levels, sizes, strict=True)]
        lower, weights = [place for place, _ in places], [weight for _, weight in places]
        total = np.zeros(sizes.shape[1])
        for corner in product((0, 1), repeat=len(self.levels)):
            share = np.ones(sizes.shape[1])
            for weight, upper in zip(weights, corner, strict=True):
                share = share * (weight if upper else 1 - weight)
            last = (len(each) - 1 for each in self.levels)
            index = tuple(np.minimum(low + up, end) for low, up, end in zip(lower, corner, last, strict=True))
            total += share * self.seconds[index]
        return total

    def everywhere(self, largest: tuple[int, ...]) -> Floats | None:
        """Seconds at every whole size from 0 to the largest of each axis, to be looked up; None where they are too many.

        Interpolation is linear in each axis, so the array is a product with one matrix of weights for each.
        """
        if prod(size + 1 for size in largest) > MOST_LOOKED_UP:
            return None
        found = self.seconds
        for axis, (levels, size) in enumerate(zip(self.levels, largest, strict=True)):
            lower, weight = _place(levels, np.arange(size + 1, dtype=np.float64))
            rows, matrix = np.arange(size + 1), np.zeros((size + 1, len(levels)))
            matrix[rows, lower] = 1 - weight
            matrix[rows, np.minimum(lower + 1, len(levels) - 1)] += weight
            found = np.moveaxis(np.tensordot(matrix, found, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(found)

    def envelope(self) -> Table:
        """The least time of all sizes that are at least as large on every axis."""
        return Table(self.levels, _least_of_wider(self.seconds))


def suspicious(seconds: Floats) -> list[int]:
    """Flat positions of times that are well above that of wider sizes: a real step, or a module's bad luck."""
    return [int(at) for at in np.flatnonzero(seconds > SUSPICIOUS * _least_of_wider(seconds))]


def _least_of_wider(seconds: Floats) -> Floats:
    """At each point the least time of all that are at least as large on every axis."""
    for axis in range(seconds.ndim):
        seconds = np.flip(np.minimum.accumulate(np.flip(seconds, axis), axis), axis)
    return seconds


def _place(levels: Floats, sizes: Floats) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Floats]:
    """Index of the level below each size, and how far it is to the next one, from 0 to 1."""
    lower = np.clip(np.searchsorted(levels, sizes, side="right") - 1, 0, max(len(levels) - 2, 0))
    if len(levels) == 1:
        return lower, np.zeros(len(sizes))
    weight = (sizes - levels[lower]) / (levels[lower + 1] - levels[lower])
    return lower, np.clip(weight, 0.0, 1.0)
