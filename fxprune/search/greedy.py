"""Greedy start: from the full widths, take again and again the cut that loses least for what it saves.

A cut of one group to any narrower candidate is judged by its added loss over the cost that it saves of the metrics
still over their limits, each in units of its excess and counted no further than that excess.
"""

from __future__ import annotations

import numpy as np

from fxprune.search.choices import Floats, Ints
from fxprune.search.surrogate import Surrogate


def descend_greedily(surrogate: Surrogate, levels: Ints) -> Ints:
    """Cut from `levels` on until, by the surrogate, all limits hold or nothing is left to cut."""
    levels = levels.copy()
    loss = surrogate.problem.loss
    excess = surrogate.centre + _offset(surrogate, levels) - surrogate.limits
    while (excess > 0).any():
        changes = surrogate.changes(levels)
        saved = np.clip(-changes, 0.0, np.maximum(excess, 0.0))
        worth = (saved / np.where(excess > 0, excess, np.inf)).sum(axis=2)
        narrower = np.arange(loss.shape[1]) < levels[:, None]
        usable = narrower & (worth > 0)
        if not usable.any():
            break
        added = loss - loss[np.arange(len(levels)), levels][:, None]
        price = np.where(usable, added / np.where(usable, worth, 1.0), np.inf)
        group, level = np.unravel_index(np.argmin(price), price.shape)
        excess = excess + changes[group, level]
        levels[group] = level
    return levels


def _offset(surrogate: Surrogate, levels: Ints) -> Floats:
    """Cost at `levels` minus cost at the anchor, by the surrogate."""
    rows = np.arange(len(levels))
    moved = surrogate.move[rows, levels]
    total: Floats = surrogate.single[rows, levels].sum(axis=0) + 0.5 * (surrogate.pair @ moved @ moved)
    return total
