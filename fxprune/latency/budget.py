"""Budgets of time: `{"latency": "3 ms"}`, `{"latency": "60%"}`, `{"throughput": "1500/s"}`, `{"throughput": "200%"}`.

Latency is what one call takes with the example inputs; throughput is their batch size over that, so at least so many items a
second is at most a time. What is stated as a share of the original is compared with the original measured beside the slim
model, round by round, so that it holds on a machine whose speed drifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxprune.backends.measure import Latency
from fxprune.budget import amount_of
from fxprune.errors import BudgetError

KEYS = ("latency", "throughput")


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """How long a call may take.

    Attributes:
        stated: what the user wrote, by metric.
        seconds: the longest allowed time; None where there is none.
        share: the largest allowed share of the original's time; None where there is none.
    """

    stated: Mapping[str, str | float]
    seconds: float | None
    share: float | None

    def __post_init__(self) -> None:
        """Check that something is limited."""
        assert self.seconds is not None or self.share is not None

    def limit(self, original: float) -> float:
        """The longest allowed time in seconds, where the original takes so many."""
        shared = None if self.share is None else self.share * original
        return min(each for each in (self.seconds, shared) if each is not None)

    def used(self, slim: Latency) -> float:
        """How much of the budget the upper end of the 95 % interval takes; at most 1 where the budget holds.

        Args:
            slim: measured beside the original, whose `speedup` is over it.
        """
        assert slim.speedup is not None
        parts = [None if self.seconds is None else slim.high_s / self.seconds]
        parts.append(None if self.share is None else 1 / slim.speedup.low / self.share)
        return max(each for each in parts if each is not None)


def split_times(budget: Any, batch_size: int | None) -> tuple[TimeBudget | None, Any]:
    """The budget of time, if there is one, and what else is limited.

    Args:
        budget: as the user wrote it.
        batch_size: of the example inputs; None where they have none.

    Raises:
        BudgetError: a time is no amount, or throughput is limited in items and there is no batch size.
    """
    if not isinstance(budget, Mapping) or not any(key in budget for key in KEYS):
        return None, budget
    stated = {key: budget[key] for key in KEYS if key in budget}
    absolute: list[float] = []
    shares: list[float] = []
    for key, value in stated.items():
        amount, is_share = amount_of(key, value)
        if key == "throughput" and not is_share and batch_size is None:
            msg = f"The budget for throughput is {value!r}, and the example inputs have no batch dimension: limit latency."
            raise BudgetError(msg)
        time = amount if key == "latency" else (1.0 if is_share else float(batch_size or 1)) / amount
        (shares if is_share else absolute).append(time)
    rest = {key: value for key, value in budget.items() if key not in KEYS}
    wrote = {key: value if isinstance(value, str) else float(value) for key, value in stated.items()}
    return TimeBudget(wrote, min(absolute, default=None), min(shares, default=None)), rest
