"""Costs with one metric more, which is computed in another way than the rest: predicted latency, or a roofline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.search.choices import Floats, Ints
from fxprune.search.problem import Costs


@dataclass(frozen=True, slots=True, eq=False)
class FurtherCosts:
    """Costs with one metric more.

    Attributes:
        costs: all other metrics.
        metric: name of the further one.
        amounts: widths `[candidates, groups]` -> amounts `[candidates]` of it; never falling when a width grows.
    """

    costs: Costs
    metric: str
    amounts: Callable[[Ints], Floats]

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names, in the order of the columns."""
        return self.costs.groups

    @property
    def sizes(self) -> Ints:
        """Original sizes, `[groups]`."""
        return self.costs.sizes

    def evaluate(self, widths: Ints, metrics: Sequence[str] | None = None, /) -> Mapping[str, Floats]:
        """Cost of each row of `widths`, `[candidates, groups]`, for each metric; None for FLOPs and the further one."""
        metrics = ("flops", self.metric) if metrics is None else metrics
        others = [metric for metric in metrics if metric != self.metric]
        found = dict(self.costs.evaluate(widths, others)) if others else {}
        if self.metric in metrics:
            found[self.metric] = self.amounts(np.asarray(widths))
        return found
