"""One degradation threshold for all groups, as FastNAS and GradNAS choose widths.

At threshold t every group takes its narrowest width whose loss is at most t. As t rises widths only shrink, so the
smallest t that meets every limit is found by bisection; over the sorted distinct losses, which are the only thresholds
at which anything changes, so the result is exact. Source: NVIDIA ModelOpt, FastNAS.
"""

from __future__ import annotations

import numpy as np

from fxprune.search.choices import Floats, Ints
from fxprune.search.problem import Problem


def solve_threshold(problem: Problem) -> Ints:
    """Levels at the smallest threshold that meets every limit; the narrowest widths meet them by assumption."""
    losses: Floats = np.unique(problem.loss)
    low, high = 0, len(losses) - 1
    while low < high:
        middle = (low + high) // 2
        if problem.feasible(_levels(problem, losses[middle])[None])[0]:
            high = middle
        else:
            low = middle + 1
    return _levels(problem, losses[low])


def _levels(problem: Problem, threshold: float) -> Ints:
    levels: Ints = np.argmax(problem.loss <= threshold, axis=1)
    return levels
