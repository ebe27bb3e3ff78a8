"""Lagrangian start: price each metric, let every group take what is cheapest, and find the lowest prices that suffice.

At prices p the relaxed problem  minimise loss(x) + p . cost(x)  has no constraint left, and any x that minimises it is
optimal for the costs that it happens to have (Everett, Operations Research 11, 1963). Scorers of hardware-aware pruning
solve the same relaxation with separable costs (HALP, NeurIPS 2022; SPDY, ICML 2022, by dynamic programming). Here costs
are products of neighbouring widths, so the relaxed problem is solved by coordinate descent over the groups, on the
surrogate, for a whole grid of prices at once: several directions (mixtures of the metrics) times a geometric grid of
heights, which is then refined around the lowest height that meets all limits.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from fxprune.search.choices import Bools, Floats, Ints
from fxprune.search.surrogate import Surrogate

HEIGHTS = 24
SWEEPS = 8
REFINEMENTS = 3
LEAST_SAVING = 1e-3
MIXTURE_PARTS = {1: 1, 2: 4, 3: 3}


def relax(surrogate: Surrogate) -> Ints:
    """Levels `[candidates, groups]` for many prices: most miss a limit or overshoot it, some just meet all."""
    directions = _directions(surrogate)
    low, high = _height_range(surrogate, directions)
    found = []
    for _ in range(REFINEMENTS):
        heights = np.geomspace(low, high, HEIGHTS, axis=1)
        prices = (heights[:, :, None] * directions[:, None, :]).reshape(-1, directions.shape[1])
        levels = _descend(surrogate, prices)
        found.append(levels)
        enough = surrogate.problem.feasible(levels).reshape(len(heights), HEIGHTS)
        low, high = _bracket(heights, enough)
    return np.unique(np.concatenate(found), axis=0)


def _directions(surrogate: Surrogate) -> Floats:
    """Mixtures of the metrics over their limits on a regular grid, each in units of what has to be saved of it."""
    exceeded = np.flatnonzero(surrogate.limits < 1)
    parts = MIXTURE_PARTS.get(len(exceeded), 1)
    mixtures = [mix for mix in product(range(parts + 1), repeat=len(exceeded)) if sum(mix) == parts]
    directions = np.zeros((len(mixtures), len(surrogate.limits)))
    directions[:, exceeded] = np.array(mixtures) / np.maximum(1 - surrogate.limits[exceeded], LEAST_SAVING)
    return directions


def _height_range(surrogate: Surrogate, directions: Floats) -> tuple[Floats, Floats]:
    """Heights between which every single move turns from too dear to worth it, `[directions]` each."""
    saved = -(surrogate.single - surrogate.single[:, -1:, :]) @ directions.T
    ratio = surrogate.problem.loss[:, :, None] / np.maximum(saved, 1e-15)
    usable = np.where((saved > 0) & (ratio > 0), ratio, np.nan)
    if np.isnan(usable).all(axis=(0, 1)).any():
        return np.full(len(directions), 1e-6), np.full(len(directions), 1e6)
    return np.nanmin(usable, axis=(0, 1)) / 4, np.nanmax(usable, axis=(0, 1)) * 4


def _bracket(heights: Floats, enough: Bools) -> tuple[Floats, Floats]:
    """The grid cell below the lowest height that met all limits, per direction; the top cell if none did."""
    first = np.where(enough.any(axis=1), enough.argmax(axis=1), HEIGHTS - 1)
    rows = np.arange(len(heights))
    return heights[rows, np.maximum(first - 1, 0)], heights[rows, first]


def _descend(surrogate: Surrogate, prices: Floats) -> Ints:
    """Coordinate descent on loss + prices . cost from the anchor, `[prices, groups]`, all rows of prices in step."""
    groups = len(surrogate.anchor)
    levels = np.repeat(surrogate.anchor[None], len(prices), axis=0)
    moved = np.zeros((len(prices), groups))
    for _ in range(SWEEPS):
        before = levels.copy()
        for group in range(groups):
            field = ((moved @ surrogate.pair[:, group, :].T) * prices).sum(axis=1)
            value = surrogate.problem.loss[group] + prices @ surrogate.single[group].T
            value += field[:, None] * surrogate.move[group]
            levels[:, group] = np.argmin(value[:, : surrogate.problem.counts[group]], axis=1)
            moved[:, group] = surrogate.move[group, levels[:, group]]
        if (levels == before).all():
            break
    return levels
