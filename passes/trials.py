"""How good a candidate is: measured on the original with its blocks dropped and its cut parts silenced, none is built.

By the user's `score`; without one, of a causal language model, by minus its mean loss of the next token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from fxprune.passes.removal import mean_loss
from fxprune.passes.silence import SilencedModel, silenced_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fxprune.analysis import Analysis
    from fxprune.batches import Batch
    from fxprune.scorer import Context


class Trials:
    """Evaluates candidates of several depths, one model with switches at a time.

    Args:
        context: the user's score.
        batches: what a language model's loss is measured on.
    """

    def __init__(self, context: Context, batches: Iterable[Batch]) -> None:
        """Make nothing yet."""
        self.context, self.batches = context, batches
        self._made: tuple[Analysis, SilencedModel] | None = None

    def evaluate(self, analysis: Analysis, kept: Mapping[str, NDArray[np.int64]]) -> float:
        """Higher is better.

        Args:
            analysis: of the model without the blocks that are dropped.
            kept: indices that remain, as `SilencedModel.silence` takes them.
        """
        from fxprune.sweep import score_of

        with self._model(analysis).silenced(kept) as model, torch.no_grad():
            if self.context.score is not None:
                return score_of(model, self.context.score)
            return -mean_loss(model, self.batches)

    def _model(self, analysis: Analysis) -> SilencedModel:
        if self._made is None or self._made[0] is not analysis:
            self._made = (analysis, silenced_model(analysis, own_weights=self.context.score is not None))
        return self._made[1]
