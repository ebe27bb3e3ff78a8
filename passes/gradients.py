"""Gradients for scorers: of a loss with respect to the masks of all groups, or to the parameters, batch by batch.

Masks multiply the operands of the products that consume a group (`fxprune.passes.silence`), so any captured model has
them, whatever its code offers. The model is in eval mode: no dropout, BatchNorm by its running statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.batches import Batch
from fxprune.callbacks import noting
from fxprune.errors import InputError
from fxprune.passes.finite import NotFiniteError

if TYPE_CHECKING:
    from fxprune.passes.silence import SilencedModel
    from fxprune.scorer import Context


def mask_gradient(model: SilencedModel, masks: Tensor, batch: Batch, context: Context) -> Tensor:
    """D loss / d mask at mask = 1 for one batch: float64 on the CPU, laid out as the masks are.

    Raises:
        InputError: the loss is no finite scalar with a gradient, or the gradient is not finite.
    """
    masks.grad = None
    loss_of(model, batch, context).backward()
    gradient = torch.zeros_like(masks) if masks.grad is None else masks.grad
    if not gradient.isfinite().all():
        msg = f"the gradient of the loss is not finite for {_where(model, gradient)} in batch {batch.number} of data"
        raise NotFiniteError(msg, batch)
    return gradient.double().cpu()


def require_finite(model: nn.Module, batch: Batch) -> None:
    """Look at the gradients of all parameters.

    Raises:
        NotFiniteError: one is not finite.
    """
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            msg = f"the gradient of the loss is not finite for parameter {name!r} in batch {batch.number} of data"
            raise NotFiniteError(msg, batch)


def loss_of(model: nn.Module, batch: Batch, context: Context) -> Tensor:
    """The user's loss for one batch.

    Raises:
        InputError: it is no finite scalar tensor with a gradient.
    """
    assert context.loss is not None
    loss: Any = noting("loss", context.loss, batch.run(model), batch.whole)
    what = _objection(loss)
    if isinstance(loss, Tensor) and what.startswith(_NOT_FINITE):
        raise NotFiniteError(f"loss(output, batch) {what} for batch {batch.number} of data", batch)
    if what:
        msg = f"loss(output, batch) {what}; it has to return one finite number as a tensor"
        raise InputError(msg)
    assert isinstance(loss, Tensor)
    return loss


_NOT_FINITE = "is not finite"


def _objection(loss: Any) -> str:
    if not isinstance(loss, Tensor):
        hint = (
            "; labels are no inputs of the graph, so compute it from the output and the batch" if loss is None else ""
        )
        return f"returned {'None' if loss is None else f'a {type(loss).__name__}'}, no tensor{hint}"
    if loss.numel() != 1:
        return f"returned a tensor of shape {tuple(loss.shape)}"
    if not loss.isfinite():
        return f"{_NOT_FINITE} ({loss.item()})"
    return "" if loss.requires_grad else "does not depend on the model's output (it has no gradient)"


def _where(model: SilencedModel, gradient: Tensor) -> str:
    """The first group that has a gradient that is not finite."""
    found = [name for name in model.switch.spans if not model.switch.view(name, gradient).isfinite().all()]
    return f"group {found[0]!r}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
