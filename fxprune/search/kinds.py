"""One keep-ratio for all kinds of groups, with what it leaves of the budget spent.

A kind with few widths makes one ratio a poor fit: where two query heads share a key/value head, all ratios below 0.75 cut half
of the query heads, and a budget of 60 % may be met by 55 % only. So at the ratio that just fails, the kinds that make the
difference to the one that just holds may go either way:

1. they are cut, as the ratio says, or
2. they stay, and all others are cut at the largest ratio that then meets the limits.

Then kinds are widened by one candidate at a time, always the one that is left with the smallest share, as long as all limits
hold. Of the two results the one with the smaller total loss is taken, the first of equals.
"""

from __future__ import annotations

import numpy as np

from fxprune.search.choices import Ints
from fxprune.search.problem import Problem
from fxprune.search.uniform import next_ratios, solve_uniform


def solve_kinds(problem: Problem) -> Ints:
    """Levels near one keep-ratio that spend the budget; the narrowest widths meet all limits by assumption."""
    cut = solve_uniform(problem)
    kept = _kept(problem, cut)
    found = [_filled(problem, levels) for levels in ([cut] if kept is None else [cut, kept])]
    return found[int(np.argmin([problem.loss_at(levels) for levels in found]))]


def _kept(problem: Problem, cut: Ints) -> Ints | None:
    """Levels where the kinds that the next larger ratio would widen are widened, and all others pay for it."""
    shares = next_ratios(problem)[np.arange(len(cut)), cut]
    if not np.isfinite(shares).any():
        return None
    wider = shares == shares.min()
    least = np.where(wider, cut + 1, 0)
    if not problem.feasible(least[None])[0]:
        return None
    return solve_uniform(problem, least)


def _filled(problem: Problem, levels: Ints) -> Ints:
    """Widened one candidate at a time, the kind with the smallest share first, until none can be."""
    groups = np.arange(len(levels))
    while True:
        open_ = levels < problem.full
        order = groups[open_][
            np.argsort((problem.widths_at(levels) / problem.widths_at(problem.full))[open_], kind="stable")
        ]
        wider = levels + (groups == order[:, None])
        feasible = problem.feasible(wider) if len(order) else np.zeros(0, dtype=np.bool_)
        if not feasible.any():
            return levels
        levels = wider[np.argmax(feasible)]
