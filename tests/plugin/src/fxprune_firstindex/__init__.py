"""A scorer in a package of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import fxprune


@dataclass(frozen=True)
class FirstIndex:
    """The lower the index, the more important."""

    name: str = "first-index"
    needs: frozenset[str] = field(default=frozenset())

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        """Falling importances for every group."""
        importance = {}
        for group in context.groups:
            falling = np.linspace(1.0, 0.1, group.size)
            rows = 1 if group.outer is None else group.outer.size
            importance[group.name] = falling if group.outer is None else np.tile(falling, (rows, 1))
        return fxprune.Scores(self.name, importance)


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        """Fail."""
        raise RuntimeError("this scorer needs a licence")


class NotAScorer:
    """Has a name and nothing else."""

    name = "not-a-scorer"
