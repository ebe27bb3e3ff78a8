"""Scores: what a scorer found out about a model, as data that can be reused for other budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
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
        signature: name -> (shape, dtype) of every parameter and buffer of the model; `compile` fills it in.
        effort: what the scoring took, for the report: what was counted -> how many.
    """

    scorer: str
    importance: Mapping[str, NDArray[np.float64]]
    sensitivity: Mapping[str, Curve] = field(default_factory=dict)
    signature: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    effort: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no search can work with."""
        for name, values in self.importance.items():
            if not np.isfinite(values).all() or (values < 0).any():
                msg = f"scorer {self.scorer!r} gave group {name!r} importances that are negative or not finite"
                raise ValueError(msg)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the scores to a file (safetensors), which appears whole or not at all.

        Raises:
            CheckpointError: there can be no such file.
        """
        from fxprune.scores_file import save_scores

        save_scores(self, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> Scores:
        """Read scores back, the same to the last bit.

        Raises:
            CheckpointError: there is no such file, or it does not hold scores.
        """
        from fxprune.scores_file import load_scores

        return load_scores(path)
