"""Widths within a budget of time that keep more parameters than those of least loss, and lose about as little.

Losses are estimates, time is measured, and between plans that lose about the same there is room: some parameters take no time
worth mentioning, and what is kept can be trained on. So to the loss of every width is added a price for the parameters that go
with it, as high a one as raises the loss by a tenth at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fxprune.search.choices import Choices, loss_of
from fxprune.search.methods import search
from fxprune.search.problem import Costs, usage_of

MOST_LOSS = 1.1
"""What parameters may multiply the loss by."""
DEAREST, TRIES = 2.0, 6
"""All parameters that go cost at most so many times the whole loss; prices are halved towards the highest that is borne."""


def search_roomy(
    costs: Costs, limits: Mapping[str, float], choices: Sequence[Choices], beside: Mapping[str, int]
) -> dict[str, int] | None:
    """Choose widths, by `knapsack`, so that all limits hold and more parameters are kept than by others.

    Args:
        costs: cost of any widths, `params` among the metrics.
        limits: metric to largest allowed amount, at least one.
        choices: candidate widths and losses, one per group of `costs`, in the same order.
        beside: the widths of least loss, in this budget or a larger one.

    Returns:
        The widths with the most parameters that were found; None where none keeps more for a tenth more of loss.

    Raises:
        InfeasibleBudget: the narrowest candidates do not meet a limit.
    """
    least, gone = loss_of(choices, beside), _gone(costs, choices, beside)
    total = loss_of(gone, beside)
    if not total or not least:
        return None
    best, most, low, high = None, usage_of(costs, beside, ("params",))["params"], 0.0, DEAREST
    for _ in range(TRIES):
        middle = (low + high) / 2
        price = middle * least / total
        priced = [replace(each, loss=each.loss + price * lost.loss) for each, lost in zip(choices, gone, strict=True)]
        found = search(costs, limits, priced)
        if loss_of(choices, found) > MOST_LOSS * least:
            high = middle
            continue
        low = middle
        if (kept := usage_of(costs, found, ("params",))["params"]) > most:
            best, most = found, kept
    return best


def _gone(costs: Costs, choices: Sequence[Choices], widths: Mapping[str, int]) -> list[Choices]:
    """For each group the parameters that go with each of its candidates, beside the others' widths, in place of losses."""
    row = np.array([widths[name] for name in costs.groups], dtype=np.int64)
    found = []
    for at, each in enumerate(choices):
        rows = np.repeat(row[None], len(each.widths), axis=0)
        rows[:, at] = each.widths
        params = costs.evaluate(rows, ("params",))["params"]
        found.append(replace(each, loss=params[-1] - params))
    return found
