"""The search's view of latency: one more cost beside FLOPs, parameters and memory.

The search relies on a narrower group never costing more, so it is given the envelope of the tables (`fxprune.latency.table`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.latency.basis import Floats, Ints
from fxprune.latency.model import LatencyModel
from fxprune.search import Costs

LATENCY = "latency"


@dataclass(frozen=True, slots=True, eq=False)
class TimedCosts:
    """Costs with `latency` in seconds among the metrics.

    Attributes:
        costs: all other metrics.
        model: predicts latency; its groups are some or all of the costs' groups.
    """

    costs: Costs
    model: LatencyModel

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names, in the order of the columns."""
        return self.costs.groups

    @property
    def sizes(self) -> Ints:
        """Original sizes, `[groups]`."""
        return self.costs.sizes

    def evaluate(self, widths: Ints, metrics: Sequence[str] = ("flops", LATENCY), /) -> Mapping[str, Floats]:
        """Cost of each row of `widths`, `[candidates, groups]`, for each metric."""
        others = [metric for metric in metrics if metric != LATENCY]
        found = dict(self.costs.evaluate(widths, others)) if others else {}
        if LATENCY in metrics:
            found[LATENCY] = self.seconds(np.asarray(widths), envelope=True)
        return found

    def seconds(self, widths: Ints, *, envelope: bool = False) -> Floats:
        """Predicted seconds `[candidates]`."""
        places = {name: at for at, name in enumerate(self.groups)}
        return self.model.seconds(widths[:, [places[name] for name in self.model.groups]], envelope=envelope)
