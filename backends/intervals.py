"""The median of repeated measurements and how well it is known.

Latencies are skewed and have outliers, so nothing is assumed about their distribution. Of `n` independent samples the
number below the true median is binomial(n, 1/2), whatever the distribution, so the order statistics `x[k]` and `x[n +
1 - k]` (1-based) enclose it with probability `1 - 2 P(binomial(n, 1/2) < k)`. The interval takes the largest `k` for
which that is at least 95 % (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). It exists from six samples
on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FEWEST_SAMPLES = 6
"""With fewer samples not even their minimum and maximum enclose the median with 95 % (2 * 2**-5 > 0.05)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and its 95 % confidence interval, in the unit of the samples."""

    median: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the order of the three."""
        assert self.low <= self.median <= self.high, f"not an interval: {self}"

    @property
    def relative_width(self) -> float:
        """Width of the interval as a fraction of the median."""
        return (self.high - self.low) / self.median if self.median else float("inf")


def median_interval(samples: Sequence[float] | NDArray[np.float64]) -> Interval:
    """Median of `samples` and its distribution-free 95 % interval.

    Args:
        samples: at least six numbers, in any order.

    Returns:
        The interval between two of the samples.
    """
    assert len(samples) >= FEWEST_SAMPLES, f"{len(samples)} samples give no 95 % interval of the median"
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    rank = _rank(len(ordered))
    return Interval(float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[-rank]))


@lru_cache(maxsize=256)
def _rank(count: int) -> int:
    """Largest `k` with `2 P(binomial(count, 1/2) < k) <= 5 %`, in exact integers."""
    most = 2**count // 40
    coefficient, below, rank = 1, 1, 0
    while below <= most:
        rank += 1
        coefficient = coefficient * (count - rank + 1) // rank
        below += coefficient
    return rank
