"""Least total loss under all limits together: a multiple-choice knapsack with costs that do not separate.

1. A problem small enough to be enumerated is.
2. Otherwise a surrogate of the costs is measured (`surrogate`), and starts are made by four methods that fail in
   different ways: one keep-ratio, one degradation threshold, greedy cuts, Lagrangian relaxation.
3. The best of them are improved by exchanges (`exchange`), each with the surrogate measured anew around it.
4. The least loss among the results that hold all limits by the true costs wins; earlier starts win ties.

So the result is never worse than that of the methods `uniform` and `threshold`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fxprune.search.choices import Ints
from fxprune.search.exchange import improve
from fxprune.search.greedy import descend_greedily
from fxprune.search.lagrange import relax
from fxprune.search.problem import Problem
from fxprune.search.surrogate import Surrogate, build_surrogate
from fxprune.search.threshold import solve_threshold
from fxprune.search.uniform import solve_uniform

MOST_ENUMERATED = 20_000
MOST_STARTS, LEAST_STARTS = 16, 3
MOVES_MEASURED = 40_000
ANCHORINGS = 3


def solve_knapsack(problem: Problem) -> Ints:
    """Levels with the least loss found; the narrowest widths meet all limits by assumption."""
    if _combinations(problem) <= MOST_ENUMERATED:
        return _enumerate(problem)
    surrogate = build_surrogate(problem, solve_uniform(problem))
    improved = [_polish(surrogate, start) for start in _starts(surrogate)]
    best = problem.best(np.stack(improved))
    assert best is not None
    return best


def _combinations(problem: Problem) -> int:
    return prod(problem.counts.tolist())


def _enumerate(problem: Problem) -> Ints:
    levels = np.stack(np.unravel_index(np.arange(problem.counts.prod()), problem.counts), axis=1)
    best = problem.best(levels)
    assert best is not None, "the narrowest widths meet all limits"
    return best


def _starts(surrogate: Surrogate) -> list[Ints]:
    """Feasible starts of the least loss, all different, as many as can be improved in reasonable time."""
    problem = surrogate.problem
    simple = np.stack([surrogate.anchor, solve_threshold(problem), _greedy(surrogate)])
    rows = np.unique(np.concatenate([simple, relax(surrogate)]), axis=0)
    rows = rows[problem.feasible(rows)]
    order = np.argsort(problem.loss_at(rows), kind="stable")
    affordable = MOVES_MEASURED // problem.loss.size
    return list(rows[order[: min(max(affordable, LEAST_STARTS), MOST_STARTS)]])


def _greedy(surrogate: Surrogate) -> Ints:
    """Greedy cuts until the true costs meet all limits."""
    levels = surrogate.problem.full
    for _ in range(ANCHORINGS):
        levels = descend_greedily(surrogate, levels)
        if surrogate.problem.feasible(levels[None])[0]:
            break
        surrogate = surrogate.moved_to(levels)
    return levels


def _polish(surrogate: Surrogate, levels: Ints) -> Ints:
    """Improve by exchanges until the surrogate, measured around the result, knows no further one."""
    for _ in range(ANCHORINGS):
        better = improve(surrogate.moved_to(levels), levels)
        if (better == levels).all():
            break
        levels = better
    return levels
