"""Linear layers and convolutions in one form: at every position a row of inputs, times a matrix, plus a bias.

    y[p, o] = sum_d a[p, d] w[d, o] + b[o]

For a linear layer a row is the input's last axis; for a convolution it is the patch under the kernel, all channels of one
group, so that each of the G groups has rows and a matrix of its own:

    a[g, p, (c, k)] = x[n, (g, c), stride * p + dilation * k - padding],   w[g, (c, k), o] = weight[(g, o), c, k]

Patches are gathered at chosen positions only, never unfolded as a whole. What adds a free constant to the outputs is told
too: the layer's own bias, or the running mean of a BatchNorm that alone reads a layer without one,

    batch_norm(y + s; mean) = batch_norm(y; mean - s).

Such a BatchNorm does not see how large the weights are either,

    batch_norm(c y; c mean, c^2 (variance + eps) - eps) = batch_norm(y; mean, variance).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional

from fxprune.passes.module_table import bind
from fxprune.program import Program

aten = torch.ops.aten
CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
PRODUCTS = (aten.matmul.default, aten.mm.default, aten.linalg_matmul.default)


@dataclass(frozen=True, slots=True)
class Norm:
    """A BatchNorm that alone reads a layer's result.

    Attributes:
        mean: canonical name of its running mean.
        variance: canonical name of its running variance.
        eps: what it adds to the variance.
    """

    mean: str
    variance: str
    eps: float


@dataclass(frozen=True, slots=True)
class AffineLayer:
    """One operation whose weight is a parameter that nothing else reads.

    Attributes:
        node: the operation in the captured graph.
        name: the module (or bare parameter) that it belongs to.
        source: the operand that holds the inputs.
        weight: canonical name of the weight.
        bias: canonical name of the bias, None where there is none or another layer reads it.
        norm: the BatchNorm that alone reads the result, if there is one.
        biased: whether the operation has a bias of any kind.
        transposed: whether the weight is [inputs, outputs].
        settings: stride, padding and dilation of a convolution; empty for a product.
    """

    node: Node
    name: str
    source: Node
    weight: str
    bias: str | None
    norm: Norm | None
    biased: bool
    transposed: bool
    settings: Mapping[str, Any]

    @property
    def spatial(self) -> int:
        """Number of dimensions that a kernel slides over; 0 for a product."""
        return spatial_of(self.node)

    @property
    def shift(self) -> str | None:
        """Canonical name of the running mean that can take a constant instead of a bias."""
        return self.norm.mean if self.norm is not None and not self.biased else None

    @property
    def free_mean(self) -> bool:
        """Whether a constant can be added to each output."""
        return self.bias is not None or self.shift is not None

    def groups(self, x: Tensor, weight: Tensor) -> int:
        """Number of groups that share no weights."""
        return int(x.shape[-self.spatial - 1] // weight.shape[1]) if self.spatial else 1

    def positions(self, y: Tensor) -> int:
        """Number of rows that a result holds."""
        channels = y.shape[-self.spatial - 1]
        return y.numel() // max(channels, 1)

    def rows(self, x: Tensor, y: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        """Inputs at chosen positions: [groups, positions, inputs of a row]; `y` tells the shape of the result."""
        if not self.spatial:
            return x.reshape(-1, x.shape[-1])[chosen][None]
        patches = self._patches(x, y, weight, chosen)
        return patches.reshape(len(chosen), self.groups(x, weight), -1).transpose(0, 1)

    def outputs(self, y: Tensor, groups: int, chosen: Tensor) -> Tensor:
        """Results at chosen positions: [groups, positions, outputs of a group]."""
        rows = y.movedim(-self.spatial - 1, -1) if self.spatial else y
        rows = rows.reshape(-1, rows.shape[-1])[chosen]
        return rows.reshape(len(chosen), groups, -1).transpose(0, 1)

    def matrix(self, weight: Tensor, groups: int) -> Tensor:
        """The weight as one matrix for each group: [groups, inputs of a row, outputs of a group]."""
        if self.transposed:
            return weight[None]
        return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)

    def weight_of(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `matrix`."""
        return matrix[0] if self.transposed else matrix.transpose(1, 2).reshape(tuple(shape))

    def labels(self, channels: Tensor, groups: int, weight: Tensor) -> Tensor:
        """What stands at each input channel, repeated for each element of a row: [groups, inputs of a row]."""
        taps = weight[0, 0].numel() if self.spatial else 1
        return channels.reshape(groups, -1).repeat_interleave(taps, dim=1)

    def _patches(self, x: Tensor, y: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        """[positions, channels, kernel...] under the kernel at each position."""
        kernel = weight.shape[2:]
        x = x if x.dim() == self.spatial + 2 else x[None]
        x = functional.pad(x, self._padding(kernel))
        sizes = (y.shape[0] if y.dim() == self.spatial + 2 else 1, *y.shape[-self.spatial :])
        sample, *places = torch.unravel_index(chosen, sizes)
        where: list[Tensor] = []
        for dim, place in enumerate(places):
            taps = torch.arange(kernel[dim], device=x.device) * self._setting("dilation", dim)
            own = place[:, None] * self._setting("stride", dim) + taps
            shape = [len(chosen), *(1 for _ in kernel)]
            shape[dim + 1] = kernel[dim]
            where.append(own.reshape(shape))
        sample = sample.reshape(-1, *(1 for _ in kernel))
        return x.movedim(1, -1)[(sample, *where)].movedim(-1, 1)

    def _setting(self, name: str, dim: int) -> int:
        value = self.settings[name]
        return int(value if isinstance(value, int) else value[dim if len(value) > 1 else 0])

    def _padding(self, kernel: Sequence[int]) -> list[int]:
        """Zeros before and after each dimension, last dimension first."""
        sides: list[int] = []
        for dim in reversed(range(self.spatial)):
            if not isinstance(self.settings["padding"], str):
                sides += [self._setting("padding", dim)] * 2
                continue
            total = self._setting("dilation", dim) * (kernel[dim] - 1) if self.settings["padding"] == "same" else 0
            sides += [total // 2, total - total // 2]
        return sides


def spatial_of(node: Node) -> int:
    """Number of dimensions that a kernel slides over; 0 for a product."""
    return int(node.target.__name__[4]) if node.target in CONVOLUTIONS else 0


def outputs_come_second(value: Node, spatial: int) -> bool:
    """Whether a layer's outputs lie where BatchNorm looks for channels; it may as well normalise tokens by their place."""
    found = value.meta.get("val")
    return isinstance(found, Tensor) and found.dim() == spatial + 2


def affine_layers(program: Program) -> tuple[AffineLayer, ...]:
    """Every linear layer, product with a parameter and convolution whose weight nothing else reads, in graph order."""
    uses = _uses(program)
    found = (_layer(program, node, uses) for node in program.nodes if node.op == "call_function")
    return tuple(layer for layer in found if layer is not None)


def _uses(program: Program) -> Counter[str]:
    """How many operations read each tensor, by its canonical name."""
    return Counter(
        program.canonical(str(node.target))
        for node in program.nodes
        if node.op == "get_attr"
        for user in node.users
        for _ in range(sum(each is node for each in _flat(user)))
    )


def _flat(user: Node) -> list[Any]:
    return [*torch.utils._pytree.tree_leaves((user.args, dict(user.kwargs)))]


def _layer(program: Program, node: Node, uses: Mapping[str, int]) -> AffineLayer | None:
    roles = _roles(node)
    if roles is None:
        return None
    source, weight_node, bias_node, transposed = roles
    weight = _parameter(program, weight_node, uses)
    if weight is None or not isinstance(source, Node) or program.tensors[weight].dim() < 2:
        return None
    if node.target not in CONVOLUTIONS and program.tensors[weight].dim() != 2:
        return None
    bound = bind(node)
    settings: dict[str, Any] = {name: bound[name] for name in ("stride", "padding", "dilation") if name in bound}
    bias = _parameter(program, bias_node, uses)
    if bias is not None and program.tensors[bias].dim() != 1:
        bias = None
    norm = _norm(program, node, uses)
    biased = bias_node is not None
    return AffineLayer(node, weight.removesuffix(".weight"), source, weight, bias, norm, biased, transposed, settings)


def _roles(node: Node) -> tuple[Any, Any, Any, bool] | None:
    """Inputs, weight, bias, and whether the weight is [inputs, outputs]; None where the operation is none of these."""
    if node.target is aten.linear.default or node.target in CONVOLUTIONS:
        bound = bind(node)
        return bound["input"], bound["weight"], bound["bias"], False
    if node.target is aten.addmm.default and not node.kwargs:
        return node.args[1], node.args[2], node.args[0], True
    if node.target in PRODUCTS:
        return node.args[0], node.args[1], None, True
    return None


def _parameter(program: Program, node: Any, uses: Mapping[str, int]) -> str | None:
    """Canonical name of a parameter that is read once."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    name = program.canonical(str(node.target))
    alone = uses.get(name) == 1 and isinstance(program.tensors.get(name), nn.Parameter)
    return name if alone else None


def _norm(program: Program, node: Node, uses: Mapping[str, int]) -> Norm | None:
    """The BatchNorm that alone reads a result, and whose statistics nothing else reads."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.target is not aten.batch_norm.default or user.args[0] is not node:
        return None
    if not outputs_come_second(node, spatial_of(node)):
        return None
    bound = bind(user)
    mean, variance = (_statistic(program, bound[name], uses) for name in ("running_mean", "running_var"))
    return None if mean is None or variance is None else Norm(mean, variance, float(bound["eps"]))


def _statistic(program: Program, node: Any, uses: Mapping[str, int]) -> str | None:
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    name = program.canonical(str(node.target))
    return name if uses.get(name) == 1 and name in program.buffers else None
