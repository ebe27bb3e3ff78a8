"""Torch-Pruning to a budget, which it has not: the ratio is searched for; and what each pruner has to be given anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn


def largest_within(
    attempt: Callable[[float], nn.Module], size: Callable[[nn.Module], int], budget: float, tries: int
) -> tuple[float, nn.Module]:
    """The largest model within the budget that bisection of the ratio meets, with its ratio.

    Raises:
        ValueError: none came within it.
    """
    low, high = 0.0, 1.0
    best: tuple[float, nn.Module] | None = None
    for _ in range(tries):
        ratio = (low + high) / 2
        made = attempt(ratio)
        fits = size(made) <= budget
        low, high = (low, ratio) if fits else (ratio, high)
        if fits and (best is None or size(made) > size(best[1])):
            best = ratio, made
    if best is None:
        msg = f"no ratio comes under {budget:,.0f} parameters"
        raise ValueError(msg)
    return best


def next_ratio(low: tuple[float, float], high: tuple[float, float], wanted: float) -> float:
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
