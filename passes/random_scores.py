"""Random: importances drawn from a seed. What every other scorer has to beat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fxprune.scores import Scores

if TYPE_CHECKING:
    from fxprune.scorer import Context


@dataclass(frozen=True, slots=True)
class Random:
    """Scores by chance; `seed` decides."""

    name: str = "random"
    needs: frozenset[str] = field(default=frozenset())

    def score(self, context: Context) -> Scores:
        """Importances between 0.5 and 1.5 for every index of every group."""
        random = np.random.default_rng(context.seed)
        return Scores(self.name, {group.name: random.uniform(0.5, 1.5, group.shape) for group in context.groups})
