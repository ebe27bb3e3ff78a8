"""Torch-Pruning to a budget of parameters, which it has not: the ratio is bisected; and what each pruner has to be given anew."""

from __future__ import annotations

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


def fresh_groupings() -> dict[str, Any]:
    """Options whose defaults are dictionaries that all pruners share and fill, each with a dictionary of its own."""
    return {"in_channel_groups": {}, "out_channel_groups": {}, "channel_groups": {}}
