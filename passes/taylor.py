"""Taylor: an index is worth how much the loss changes, to first order, when its weights go to zero.

    importance_g(i) = sum over parameters w coupled in g of sum over the slice i of |w dL/dw|,   L summed over batches

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), equation 8 by parameter, summed
over coupled parameters as Torch-Pruning's `GroupTaylorImportance` does; scaled to mean 1 within each group.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.indexing import sum_by_index
from fxprune.passes.gradients import loss_of
from fxprune.passes.silence import silenced_model
from fxprune.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        gradients = parameter_gradients(model, context, self.max_batches)
        return Scores(self.name, {group.name: _importance(context, group, gradients) for group in context.groups})


def parameter_gradients(model: nn.Module, context: Context, limit: int) -> dict[str, Tensor]:
    """Gradients of the loss, summed over batches in float64, by parameter name; parameters without one are left out.

    Raises:
        InputError: the loss is no finite scalar, or a gradient is not finite.
    """
    parameters = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    total: dict[str, Tensor] = {}
    for each in parameters.values():
        each.requires_grad_()
    for number, batch in enumerate(context.batches(limit)):
        model.zero_grad(set_to_none=True)
        loss_of(model, batch, context, number).backward()
        for name, each in parameters.items():
            if each.grad is not None:
                total[name] = total.get(name, 0) + each.grad.double()
    for name, gradient in total.items():
        if not torch.isfinite(gradient).all():
            msg = f"the gradient of the loss is not finite for parameter {name!r}; check the model and the data"
            raise InputError(msg)
    return total


def _importance(context: Context, group: Group, gradients: dict[str, Tensor]) -> NDArray[np.float64]:
    """Sum of |w dL/dw| per index, scaled to mean 1: float64 [size] or [outer size, size]."""
    total = np.zeros((group.size,) if group.outer is None else (group.outer.size, group.size))
    for name, (tensor, axes) in context.parameters_of(group).items():
        if name in gradients:
            total += sum_by_index((tensor.detach() * gradients[name]).abs(), axes, group).cpu().numpy()
    mean = total.mean()
    return total / mean if mean > 0 else np.ones_like(total)
