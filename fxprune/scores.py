"""Scores: what a scorer found out about a model, as data that can be reused for other budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
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
        whole: names of groups that keep their width, unless a budget asks for another one of them by name.
        blocks: name of a block that can be dropped -> non-negative importance; empty where the scorer gave none.
        search: the search method that suits these scores; None for the default.
    """

    scorer: str
    importance: Mapping[str, NDArray[np.float64]]
    sensitivity: Mapping[str, Curve] = field(default_factory=dict)
    signature: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    effort: Mapping[str, int] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    blocks: Mapping[str, float] = field(default_factory=dict)
    search: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no search can work with."""
        for name, values in self.importance.items():
            if not np.isfinite(values).all() or (values < 0).any():
                msg = f"scorer {self.scorer!r} gave group {name!r} importances that are negative or not finite"
                raise ValueError(msg)
        for name, value in self.blocks.items():
            if not (isfinite(value) and value >= 0):
                msg = f"scorer {self.scorer!r} gave block {name!r} the importance {value}"
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
