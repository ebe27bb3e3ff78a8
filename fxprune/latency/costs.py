"""The search's view of latency: one more cost beside FLOPs, parameters and memory.

The search relies on a narrower group never costing more, so it is given the envelope of the tables (`fxprune.latency.table`).
"""

from __future__ import annotations

from fxprune.latency.basis import Floats, Ints
from fxprune.latency.model import LatencyModel
from fxprune.search import Costs, FurtherCosts

LATENCY = "latency"


def timed_costs(costs: Costs, model: LatencyModel) -> FurtherCosts:
    """Costs with `latency` in seconds among the metrics.

    Args:
        costs: all other metrics.
        model: predicts latency; its groups are some or all of the costs' groups.
    """
    places = {name: at for at, name in enumerate(costs.groups)}
    own = [places[name] for name in model.groups]

    def seconds(widths: Ints) -> Floats:
        return model.seconds(widths[:, own], envelope=True)

    return FurtherCosts(costs, LATENCY, seconds)
