"""Any importance of Torch-Pruning as a scorer: `scorer=torch_pruning.importance.TaylorImportance()`.

Torch-Pruning's importances look at a group of its own kind: a list of (dependency, indices), where a dependency names a
module and the function that would prune it. Such a list is made of each dependency group of fxprune, with Torch-Pruning's
own classes: an item for every module that has a member of the group on its output or input channels. Where several
positions of an axis belong to one index (the channels of a head), all of them point to it, and Torch-Pruning adds them
up. The modules are fxprune's own, which share the user's weights; what importances need of gradients is put there:

- with `data` and `loss`, gradients are computed as Torch-Pruning's examples do it: one backward pass for each batch, added
  up; for importances with `accumulate_grad` (Hessian) its square for each batch;
- without, the gradients that the user's own parameters hold are taken.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023), torch-pruning 1.6.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fxprune.axes import leaves
from fxprune.errors import InputError, PluginError
from fxprune.groups import Group
from fxprune.indexing import index_of
from fxprune.passes.gradients import loss_of, require_finite
from fxprune.passes.silence import SilencedModel, silenced_model
from fxprune.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.axes import Axes
    from fxprune.scorer import Context


@dataclass(frozen=True, slots=True)
class TorchPruning:
    """Scores by an importance of Torch-Pruning.

    Attributes:
        importance: an object of `torch_pruning.importance`, or of a class derived from one; it is copied.
        max_batches: largest number of batches for gradients.
    """

    importance: Any
    max_batches: int = 128

    @property
    def name(self) -> str:
        """The importance's class."""
        return f"torch-pruning {type(self.importance).__name__}"

    @property
    def needs(self) -> frozenset[str]:
        """Nothing that can be told beforehand: gradients may be the user's."""
        return frozenset()

    def score(self, context: Context) -> Scores:
        """Importance of every index of every group.

        Raises:
            InputError: gradients are needed and missing.
            PluginError: Torch-Pruning fails.
        """
        model = silenced_model(context.analysis, gated=False)
        importance = copy.deepcopy(self.importance)
        self._provide_gradients(model, importance, context)
        return Scores(self.name, {group.name: _score(importance, model, context, group) for group in context.groups})

    def __post_init__(self) -> None:
        """Refuse what cannot work from gradients alone."""
        if type(self.importance).__name__ == "OBDCImportance":
            msg = "OBDCImportance needs hooks of Torch-Pruning's own pruner; take GroupHessianImportance instead"
            raise InputError(msg)

    def _provide_gradients(self, model: SilencedModel, importance: Any, context: Context) -> None:
        if context.data is not None and context.loss is not None:
            _backward(model, importance, context, self.max_batches)
            return
        tensors = context.analysis.program.tensors
        for name, parameter in model.named_parameters():
            parameter.grad = tensors[name].grad if name in tensors else None
        without = all(each.grad is None for each in model.parameters())
        if without and type(importance).__name__ in _NEEDING_GRADIENTS:
            msg = (
                f"{type(importance).__name__} needs gradients: pass data= and loss= to fxprune.compile, or call "
                "loss.backward() on the model before"
            )
            raise InputError(msg)


_NEEDING_GRADIENTS = ("GroupTaylorImportance", "GroupHessianImportance", "TaylorImportance", "HessianImportance")


def is_importance(candidate: object) -> bool:
    """Whether an object is one of Torch-Pruning's importances; Torch-Pruning is not imported for the question."""
    kinds = type(candidate).__mro__
    return any(kind.__name__ == "Importance" and kind.__module__.startswith("torch_pruning.") for kind in kinds)


def _backward(model: SilencedModel, importance: Any, context: Context, limit: int) -> None:
    """Gradients of all batches, left in `.grad`."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    square = hasattr(importance, "accumulate_grad")
    if square:
        importance.zero_grad()
    for batch in context.track(context.batches(limit), "gradients"):
        if square:
            model.zero_grad()
        loss_of(model, batch, context).backward()
        require_finite(model, batch)
        if square:
            importance.accumulate_grad(model)


def _score(importance: Any, model: SilencedModel, context: Context, group: Group) -> NDArray[np.float64]:
    """What Torch-Pruning says of one group: float64 [size] or [outer size, size], not negative."""
    shape = group.shape
    items = _torch_pruning_group(model, context, group)
    try:
        found = importance(items) if len(items) else None
    except Exception as error:
        msg = f"{type(importance).__name__} of Torch-Pruning fails for group {group.name!r}: {error}"
        raise PluginError(msg) from error
    if found is None or not found.isfinite().all():  # nothing is known: no such layer, or no gradient at all
        return np.ones(shape)
    values = found.detach().double().cpu().numpy().reshape(-1)[: int(np.prod(shape))].reshape(shape)
    shifted: NDArray[np.float64] = values - min(values.min(), 0.0)
    return shifted


def _torch_pruning_group(model: SilencedModel, context: Context, group: Group) -> Any:
    """A group of Torch-Pruning's own kind; items whose positions are as many as the indices come first, outputs before."""
    from torch_pruning.dependency import Dependency
    from torch_pruning.dependency.group import Group as TorchPruningGroup
    from torch_pruning.dependency.node import Node

    found = sorted(_items(model, context, group), key=lambda each: (len(each.positions) != each.count, each.dim))
    made = TorchPruningGroup()
    for each in found:
        node = Node(each.module, None, each.path)
        made.add_dep(Dependency(each.function, each.function, node, node), each.positions)
        made[len(made) - 1].root_idxs = each.indices
    return made


@dataclass(frozen=True, slots=True)
class Item:
    """One module in a group.

    Attributes:
        path: name of the module.
        module: with the user's weights.
        function: Torch-Pruning's pruning function for it.
        dim: dimension of the weight that holds the group.
        positions: channels of the module that belong to the group, ascending.
        indices: the index of each.
        count: number of indices of the group.
    """

    path: str
    module: nn.Module
    function: Any
    dim: int
    positions: list[int]
    indices: list[int]
    count: int


def _items(model: SilencedModel, context: Context, group: Group) -> Iterator[Item]:
    """Every module with the group on an axis of its weight, once for each axis."""
    count = group.size if group.outer is None else group.outer.size * group.size
    for member in group.members:
        path, _, own = member.name.rpartition(".")
        module = model.get_submodule(path)
        function = _function(module, member.dim) if own == "weight" else None
        if function is not None:
            axes = context.analysis.propagation.tensors[member.name]
            indices = _indices(axes, member.dim, group)
            positions = (indices >= 0).nonzero().flatten()
            yield Item(path, module, function, member.dim, positions.tolist(), indices[positions].tolist(), count)


def _function(module: nn.Module, dim: int) -> Any:
    """Torch-Pruning's function that prunes a dimension of the module's weight; None for what it does not know."""
    from torch_pruning.pruner import function as known

    if isinstance(module, _ConvNd):
        if module.transposed and module.groups > 1:
            return None  # Torch-Pruning takes its channels for those of an ordinary convolution
        if module.groups == module.out_channels and module.groups > 1:
            return known.prune_depthwise_conv_out_channels
        outputs = dim == (1 if module.transposed else 0)
        return (known.prune_conv_in_channels, known.prune_conv_out_channels)[outputs] if dim < 2 else None
    if isinstance(module, nn.Linear):
        return (known.prune_linear_out_channels, known.prune_linear_in_channels)[dim]
    table = (
        (_BatchNorm, known.prune_batchnorm_out_channels),
        (nn.LayerNorm, known.prune_layernorm_out_channels),
        (nn.GroupNorm, known.prune_groupnorm_out_channels),
        (_InstanceNorm, known.prune_instancenorm_out_channels),
        (nn.PReLU, known.prune_prelu_out_channels),
    )
    return next((function for kind, function in table if isinstance(module, kind)), None)


def _indices(axes: Axes, dim: int, group: Group) -> Tensor:
    """For every channel along a dimension the index of the group, -1 for none; nested ones count through.

    The input channels of a grouped convolution are those of all its groups, one after the other.
    """
    labels = index_of(axes[dim], group.variable)
    if group.outer is None:
        return labels
    if group.outer in leaves(axes[dim]):
        rows = index_of(axes[dim], group.outer)
        return torch.where((labels < 0) | (rows < 0), -1, rows * group.size + labels)
    rows = torch.arange(group.outer.size)[:, None] * group.size
    return torch.where(labels[None] < 0, -1, rows + labels[None]).flatten()
