"""Taylor: an index is worth how much the loss changes, to first order, when its weights go to zero.

    importance_g(i) = sum over batches and over parameters w coupled in g of the sum over the slice i of |w dL/dw|

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), who average over batches; summed
over coupled parameters as Torch-Pruning's `GroupTaylorImportance` does (which adds up the gradients of all batches first:
`scorer=torch_pruning.importance.TaylorImportance()`). Scaled to mean 1 within each group.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from fxprune.indexing import sum_by_index
from fxprune.passes.finite import NotFiniteError
from fxprune.passes.gradients import loss_of
from fxprune.passes.silence import silenced_model
from fxprune.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.batches import Batch
    from fxprune.groups import Group
    from fxprune.scorer import Context


@dataclass(frozen=True, slots=True)
class Taylor:
    """Scores by weight times gradient; needs `data` and `loss`.

    Attributes:
        max_batches: largest number of batches of `data` that are used.
    """

    max_batches: int = 128
    name: str = "taylor"
    needs: frozenset[str] = field(default=frozenset({"data", "loss"}))

    def score(self, context: Context) -> Scores:
        """Importance of every index of every group."""
        model = silenced_model(context.analysis, gated=False)
        for each in model.parameters():
            each.requires_grad_(each.is_floating_point())
        sums, _ = context.accumulate(
            "weights times gradients", lambda batch: _by_group(model, batch, context), "gradients", self.max_batches
        )
        return Scores(self.name, {name: scaled(each) for name, each in sums.items()})


def _by_group(model: nn.Module, batch: Batch, context: Context) -> dict[str, NDArray[np.float64]]:
    """Sum of |w dL/dw| per index of every group, for one batch.

    Raises:
        InputError: the loss is no finite scalar, or a gradient is not finite.
    """
    model.zero_grad(set_to_none=True)
    loss_of(model, batch, context).backward()
    products = {name: _product(name, each, batch) for name, each in model.named_parameters() if each.grad is not None}
    return {group.name: _sum(context, group, products) for group in context.groups}


def _product(name: str, parameter: Tensor, batch: Batch) -> Tensor:
    """|w dL/dw|, in the gradient's own memory."""
    assert parameter.grad is not None
    product = parameter.grad.mul_(parameter.detach()).abs_()
    if not product.isfinite().all():
        msg = f"the gradient of the loss is not finite for parameter {name!r} in batch {batch.number} of data"
        raise NotFiniteError(msg, batch)
    return product


def _sum(context: Context, group: Group, products: dict[str, Tensor]) -> NDArray[np.float64]:
    total = np.zeros(group.shape)
    for name, (_, axes) in context.parameters_of(group).items():
        if name in products:
            total += sum_by_index(products[name], axes, group).cpu().numpy()
    return total


def scaled(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same with mean 1; ones where all are 0."""
    mean = importance.mean()
    return importance / mean if mean > 0 else np.ones_like(importance)
