"""GradNAS: an index is worth the squared gradient of the loss with respect to its mask.

    importance_g(i) = mean over batches of (d loss / d m_i)^2   at m = 1

The mask multiplies the index wherever it is consumed, so the derivative is to first order what losing the index would
change. All groups are measured in the same unit, that of the squared loss; the expected loss of a width is the sum of what
is cut at it,

    loss_g(w) = sum of the (size - w) smallest importances,

which makes groups comparable. Sources: Michel et al., "Are Sixteen Heads Really Better than One?" (arXiv 1905.10650), who
take |d loss / d m| and normalise per layer; ModelOpt 0.40's `gradnas`, which sums squares and searches one threshold for
all groups: `compile(..., scorer="gradnas", search="threshold")` does that. Statistics of norms over a group are held
fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fxprune.passes.experts import expert_groups
from fxprune.passes.gradients import mask_gradient
from fxprune.passes.silence import silenced_model
from fxprune.scores import Curve, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.batches import Batch
    from fxprune.scorer import Context


@dataclass(frozen=True, slots=True)
class GradNAS:
    """Scores by squared mask gradients; needs `data` and `loss`.

    Attributes:
        max_batches: largest number of batches of `data` that are used (ModelOpt: 128).
    """

    max_batches: int = 128
    name: str = "gradnas"
    needs: frozenset[str] = field(default=frozenset({"data", "loss"}))

    def score(self, context: Context) -> Scores:
        """Importance of every index, and what each width is expected to lose."""
        model = silenced_model(context.analysis)
        with model.differentiable() as masks:

            def squares(batch: Batch) -> dict[str, Tensor]:
                return {"squares": mask_gradient(model, masks, batch, context).square()}

            sums, count = context.accumulate("squared mask gradients", squares, "gradients", self.max_batches)
        importance = model.by_group(torch.from_numpy(sums["squares"]) / count)
        return Scores(
            self.name,
            importance,
            {name: cumulative(each) for name, each in importance.items()},
            whole=expert_groups(context.analysis),  # a router chooses: no gradient says what an expert is worth
        )


def cumulative(importance: NDArray[np.float64]) -> Curve:
    """What each width loses: the sum of the importances of what is cut at it.

    Args:
        importance: [size], or [outer size, size] where each outer index keeps its own most important ones.
    """
    ascending = np.sort(np.atleast_2d(importance), axis=1).sum(axis=0)
    lost = np.cumsum(ascending)[::-1][1:]  # at width 1, 2, ..., size - 1
    widths = range(1, len(ascending) + 1)
    return Curve(tuple(widths), (*lost.tolist(), 0.0))
