"""Torch-Pruning to a budget, which it has not: the ratio is searched for; and what each pruner has to be given anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

Tried = tuple[float, float]
"""A ratio, and the size that it leaves."""


def halfway(low: Tried, high: Tried) -> float:
    """Bisection."""
    return (low[0] + high[0]) / 2


def largest_within(
    attempt: Callable[[float], nn.Module],
    size: Callable[[nn.Module], float],
    budget: float,
    tries: int,
    *,
    choose: Callable[[Tried, Tried], float] = halfway,
    close: float = 0.0,
) -> tuple[float, nn.Module]:
    """The largest model within the budget that the search of the ratio meets, with its ratio.

    Args:
        attempt: a model pruned by a ratio.
        size: what is budgeted; where `choose` looks at it, a share of the whole.
        budget: the largest size.
        tries: how many ratios are tried at most.
        choose: the ratio to try next, between one that leaves too much and one that leaves too little.
        close: the search ends at a model that is at most so far below the budget.

    Raises:
        ValueError: none came within it.
    """
    low, high = (0.0, 1.0), (1.0, 0.0)
    best: tuple[float, nn.Module] | None = None
    most = -math.inf
    for _ in range(tries):
        ratio = choose(low, high)
        made = attempt(ratio)
        left = size(made)
        low, high = (low, (ratio, left)) if left <= budget else ((ratio, left), high)
        if most < left <= budget:
            best, most = (ratio, made), left
        if close and budget - close <= most:
            break
    if best is None:
        msg = f"no ratio comes under {budget:,g}"
        raise ValueError(msg)
    return best


def next_ratio(low: Tried, high: Tried, wanted: float) -> float:
    """The ratio to try next, between two that leave too much and too little: pairs of a ratio and the share it leaves.

    Where all widths keep a share w of themselves, w * w of the FLOPs are left: so their square root is interpolated, and
    the ratio keeps away from either end by a tenth of the interval.
    """
    (least, more), (most, less) = low, high
    roots = [math.sqrt(each) for each in (more, wanted, less)]
    part = (roots[0] - roots[1]) / max(roots[0] - roots[2], 1e-9)
    return least + (most - least) * min(max(part, 0.1), 0.9)


def fresh_groupings() -> dict[str, Any]:
    """Options whose defaults are dictionaries that all pruners share and fill, each with a dictionary of its own."""
    return {"in_channel_groups": {}, "out_channel_groups": {}, "channel_groups": {}}
