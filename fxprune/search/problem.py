"""The search problem: pick one candidate width per group, within all limits, at the least total loss.

    minimise  sum_g loss_g(x_g)   subject to   cost_m(width(x)) <= limit_m   for every metric m

`x_g` is the *level* of group g: the position of its width among its candidates. It is a multiple-choice knapsack whose
costs are not separable: a layer's cost is a product of the widths on its two sides. All methods see the costs only
through `Costs.evaluate`, in batches, and rely on one property: a narrower group never costs more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fxprune.budget import format_amount
from fxprune.errors import InfeasibleBudget, Shortfall
from fxprune.search.choices import Bools, Choices, Floats, Ints

CELLS_PER_BATCH = 1 << 20


class Costs(Protocol):
    """What the search needs to know of a model's costs."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names, in the order of the columns."""

    @property
    def sizes(self) -> Ints:
        """Original sizes, `[groups]`."""

    def evaluate(self, widths: Ints, metrics: Sequence[str] = ..., /) -> Mapping[str, Floats]:
        """Cost of each row of `widths`, `[candidates, groups]`, for each metric."""


def usage_of(costs: Costs, widths: Mapping[str, int], metrics: Sequence[str]) -> dict[str, float]:
    """What widths of all groups cost by each metric."""
    row = np.array([[widths[name] for name in costs.groups]], dtype=np.int64)
    return {metric: float(values[0]) for metric, values in costs.evaluate(row, metrics).items()}


@dataclass(frozen=True, slots=True)
class Problem:
    """Limits, candidates and costs, in arrays of groups by levels.

    Attributes:
        costs: evaluates widths.
        metrics: the limited metrics, in the order of the last axis of what `usage` returns.
        limits: largest allowed amount, `[metrics]`.
        counts: number of candidates, `[groups]`.
        widths: candidate widths, `[groups, levels]`; beyond a group's last candidate its original size repeats.
        loss: expected losses, `[groups, levels]`, likewise.
    """

    costs: Costs
    metrics: tuple[str, ...]
    limits: Floats
    counts: Ints
    widths: Ints
    loss: Floats

    @property
    def full(self) -> Ints:
        """Levels of the unpruned model."""
        return self.counts - 1

    def widths_at(self, levels: Ints) -> Ints:
        """Widths `[..., groups]` at levels of that shape."""
        return self.widths[np.arange(len(self.counts)), levels]

    def loss_at(self, levels: Ints) -> Floats:
        """Total loss `[...]` at levels `[..., groups]`."""
        total: Floats = self.loss[np.arange(len(self.counts)), levels].sum(axis=-1)
        return total

    def usage(self, levels: Ints) -> Floats:
        """Cost `[rows, metrics]` at levels `[rows, groups]`, evaluated in batches of bounded memory."""
        rows = max(CELLS_PER_BATCH // max(levels.shape[1], 1), 1)
        batches = [self._evaluate(levels[start : start + rows]) for start in range(0, len(levels), rows)]
        return np.concatenate(batches) if batches else np.zeros((0, len(self.metrics)))

    def feasible(self, levels: Ints) -> Bools:
        """Whether all limits hold, exactly, at each row of levels."""
        return np.asarray((self.usage(levels) <= self.limits).all(axis=1))

    def best(self, levels: Ints) -> Ints | None:
        """The feasible row with the least loss, the first of equals; None if no row is feasible."""
        allowed = levels[self.feasible(levels)]
        if not len(allowed):
            return None
        best: Ints = allowed[np.argmin(self.loss_at(allowed))]
        return best

    def _evaluate(self, levels: Ints) -> Floats:
        usage = self.costs.evaluate(self.widths_at(levels), self.metrics)
        return np.stack([usage[metric] for metric in self.metrics], axis=1)


def pose(costs: Costs, limits: Mapping[str, float], choices: Sequence[Choices]) -> Problem:
    """Put the candidates of all groups into arrays."""
    assert [choice.group for choice in choices] == list(costs.groups), (
        "one Choices per group, in the order of the costs"
    )
    assert [choice.widths[-1] for choice in choices] == list(costs.sizes), "the last candidate is the original size"
    counts = np.array([len(choice.widths) for choice in choices], dtype=np.int64)
    spare = [counts.max(initial=1) - count for count in counts]
    widths = [np.pad(choice.widths, (0, pad), mode="edge") for choice, pad in zip(choices, spare, strict=True)]
    loss = [np.pad(choice.loss, (0, pad), mode="edge") for choice, pad in zip(choices, spare, strict=True)]
    shape = (len(choices), int(counts.max(initial=1)))
    return Problem(
        costs,
        tuple(limits),
        np.array(list(limits.values()), dtype=np.float64),
        counts,
        np.array(widths, dtype=np.int64).reshape(shape),
        np.array(loss, dtype=np.float64).reshape(shape),
    )


def require_feasible(problem: Problem) -> None:
    """Raise `InfeasibleBudget` if not even the narrowest candidates meet every limit."""
    smallest, original = problem.usage(np.stack([np.zeros_like(problem.full), problem.full]))
    shortfalls = {
        metric: Shortfall(float(problem.limits[i]), float(smallest[i]), float(original[i]))
        for i, metric in enumerate(problem.metrics)
        if smallest[i] > problem.limits[i]
    }
    if shortfalls:
        lines = [_explain(metric, shortfall) for metric, shortfall in shortfalls.items()]
        raise InfeasibleBudget("No choice of widths meets the budget.\n" + "\n".join(lines), shortfalls)


def _explain(metric: str, shortfall: Shortfall) -> str:
    limit, smallest, original = (
        format_amount(metric, amount) for amount in (shortfall.limit, shortfall.smallest, shortfall.original)
    )
    share = f" ({shortfall.smallest / shortfall.original:.1%})" if shortfall.original else ""
    return f"  {metric}: at most {limit} asked for; {smallest}{share} is the least reachable, of {original} originally"
