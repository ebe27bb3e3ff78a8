"""Scores: what a scorer found out about a model, as data that can be reused for other budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Curve:
    """Expected loss of score when one group is cut to a width.

    Attributes:
        widths: ascending numbers of kept indices.
        loss: expected loss at each width, not increasing.
    """

    widths: tuple[int, ...]
    loss: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that both have one entry per width."""
        assert len(self.widths) == len(self.loss) > 0
        assert list(self.widths) == sorted(set(self.widths))


@dataclass(frozen=True, slots=True)
class Scores:
    """Importance of every index of every group, and optionally what cutting costs.

    Attributes:
        scorer: name of the scorer.
        importance: group name -> non-negative float64 [size], or [outer size, size] for a nested group; more is better.
        sensitivity: group name -> expected loss of score by width; may lack groups, or be empty.
        effort: what the scoring took, for the report: what was counted -> how many.
    """

    scorer: str
    importance: Mapping[str, NDArray[np.float64]]
    sensitivity: Mapping[str, Curve] = field(default_factory=dict)
    effort: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no search can work with."""
        for name, values in self.importance.items():
            if not np.isfinite(values).all() or (values < 0).any():
                msg = f"scorer {self.scorer!r} gave group {name!r} importances that are negative or not finite"
                raise ValueError(msg)
