"""Widths within a budget that are also fast, where time is not in proportion to what the budget limits.

Least loss alone takes FLOPs where they are worth least. That may leave wide what is bound by memory: a residual stream, whose
FLOPs are few and whose bytes are many. So a bound on time is added, as a share of what the plan takes that keeps one share of
every group and just meets the budget. The lowest of a few such shares is taken that

- raises the loss by no more than a tenth; to be as fast as that plan, by no more than half, and
- still spends the budget: narrower widths than were asked for are no bargain.

Where none does, or the plan of least loss is as fast anyway, that plan it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fxprune.errors import InfeasibleBudget
from fxprune.search.choices import Choices, Ints, loss_of
from fxprune.search.methods import search
from fxprune.search.problem import Costs, usage_of

MOST_LOSS = {0.8: 1.1, 0.85: 1.1, 0.9: 1.1, 0.95: 1.1, 1.0: 1.5}
"""Shares of the time of the plan that keeps all groups' proportions, and what each may multiply the loss by."""
LEAST_SPENT = 0.97
HALVINGS = 30


def search_fast(costs: Costs, limits: Mapping[str, float], choices: Sequence[Choices], time: str) -> dict[str, int]:
    """Choose a width for every group, by `knapsack`, so that all limits hold, little is lost, and time is saved.

    Args:
        costs: cost of any widths, `time` among the metrics.
        limits: metric to largest allowed amount, at least one.
        choices: candidate widths and losses, one per group of `costs`, in the same order.
        time: the metric that says how long widths take.

    Raises:
        InfeasibleBudget: the narrowest candidates do not meet a limit.
    """
    plain = search(costs, limits, choices)
    reference = _in_proportion(costs, limits, time)
    before = usage_of(costs, plain, (*limits, time))
    for share, most_loss in MOST_LOSS.items():
        bound = share * reference
        if before[time] <= bound:
            return plain
        try:
            found = search(costs, {**limits, time: bound}, choices)
        except InfeasibleBudget:
            continue
        spent = usage_of(costs, found, tuple(limits))
        if loss_of(choices, found) <= most_loss * loss_of(choices, plain) and any(
            spent[metric] >= LEAST_SPENT * before[metric] for metric in limits
        ):
            return found
    return plain


def _in_proportion(costs: Costs, limits: Mapping[str, float], time: str) -> float:
    """Time of the largest share of every group that meets the limits, whatever the candidates are."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        usage = costs.evaluate(_scaled(costs, middle), tuple(limits))
        fits = all(usage[metric][0] <= limit for metric, limit in limits.items())
        low, high = (middle, high) if fits else (low, middle)
    return float(costs.evaluate(_scaled(costs, low), (time,))[time][0])


def _scaled(costs: Costs, share: float) -> Ints:
    widths: Ints = np.maximum(np.rint(share * costs.sizes), 1).astype(np.int64)[None]
    return widths
