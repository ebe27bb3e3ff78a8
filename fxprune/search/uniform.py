"""One keep-ratio for all groups, or, where groups are tied to kinds (`tied`), for all kinds.

At ratio r every group takes its candidate nearest to r times its size (the wider one at equal distance). What is chosen
changes only where r passes the middle between two neighbouring candidates, so bisection over these middles finds the
largest feasible ratio exactly.
"""

from __future__ import annotations

import numpy as np

from fxprune.search.choices import Floats, Ints
from fxprune.search.problem import Problem


def solve_uniform(problem: Problem, least: Ints | None = None) -> Ints:
    """Levels at the largest keep-ratio that meets every limit.

    Args:
        problem: the candidates and limits.
        least: levels that no group goes below, which meet the limits; None for the narrowest widths, which do by assumption.
    """
    middles = next_ratios(problem)
    ratios: Floats = np.unique(np.append(middles[np.isfinite(middles)], 0.0))
    low, high = 0, len(ratios) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if problem.feasible(_levels(middles, ratios[middle], least)[None])[0]:
            low = middle
        else:
            high = middle - 1
    return _levels(middles, ratios[low], least)


def next_ratios(problem: Problem) -> Floats:
    """Ratio from which on level k + 1 is nearer than level k, `[groups, levels]`; infinite from a group's last on."""
    following = np.append(problem.widths[:, 1:], problem.widths[:, -1:], axis=1)
    middles = (problem.widths + following) / (2.0 * problem.widths[:, -1:])
    last = np.arange(middles.shape[1]) >= problem.full[:, None]
    return np.where(last, np.inf, middles)


def _levels(middles: Floats, ratio: float, least: Ints | None) -> Ints:
    levels: Ints = (middles <= ratio).sum(axis=1, dtype=np.int64)
    return levels if least is None else np.maximum(levels, least)
