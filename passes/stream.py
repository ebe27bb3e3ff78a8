"""Residual streams: which layer writes into one, and what stands beside it in the sum.

    sum = partner + f(y),   f(y) = y, dropout in eval mode, or a BatchNorm that alone reads y: f(y) = scale * (y - mean) + beta

A linear layer may look at its positions in another shape (the `Conv1D` of GPT-2 merges batch and sequence); they are the same
positions in the same order as long as the outputs stay the last dimension.

What the stream of the slim model lacks at the partner, the layer can supply: its target moves by lack / scale. Channels whose
BatchNorm scales them to nothing are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.passes.affine import AffineLayer, outputs_come_second
from fxprune.passes.module_table import bind
from fxprune.passes.sizes import RESHAPES
from fxprune.program import Program

aten = torch.ops.aten
SUMS = (aten.add.Tensor, aten.add_.Tensor)
PASSED = (aten.dropout.default, aten.dropout_.default, aten.alias.default, aten.contiguous.default)
SMALLEST_SCALE = 1e-3
"""Relative to the largest of a layer: below it a BatchNorm counts as scaling to nothing."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a layer enters a stream.

    Attributes:
        total: the sum.
        place: of the other summand among its operands.
        scale: factor by which the layer's outputs enter it: None for 1, else one per channel.
        spatial: number of dimensions behind the channels.
    """

    total: Node
    place: int
    scale: Tensor | None
    spatial: int

    @property
    def partner(self) -> Node:
        """The other summand."""
        found: Node = self.total.args[self.place]  # type: ignore[assignment]
        return found

    def undo(self, lack: Tensor, shape: torch.Size) -> Tensor:
        """What the layer's outputs, of this shape, have to change by for the sum to change by `lack`."""
        lack = lack.reshape(shape)
        if self.scale is None:
            return lack
        usable = self.scale.abs() > SMALLEST_SCALE * self.scale.abs().max()
        factor = torch.where(usable, 1 / self.scale, 0.0).to(lack.dtype)
        return lack * factor.reshape(-1, *(1 for _ in range(self.spatial)))


def find_stream(layer: AffineLayer, program: Program, slim: GraphModule) -> Stream | None:
    """The stream that a layer alone writes into by a sum whose other summand is known by then; None if there is none."""
    scale: Tensor | None = None
    node = layer.node
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target in SUMS:
            place = _partner(user, node, layer.node, program)
            return None if place is None else Stream(user, place, scale, layer.spatial)
        if user.target is aten.batch_norm.default and user.args[0] is node and scale is None:
            scale = _scale(user, program, slim) if outputs_come_second(node, layer.spatial) else None
            if scale is None:
                return None
        elif user.target not in PASSED and not _is_reshaped(user, node, layer):
            return None
        node = user
    return None


def _partner(total: Node, node: Node, layer: Node, program: Program) -> int | None:
    """Where the other summand stands, of the same shape, computed before the layer."""
    place = 1 if total.args[0] is node else 0
    other = total.args[place]
    if not isinstance(other, Node) or other is node or other.op == "get_attr" or bind(total)["alpha"] != 1:
        return None
    if getattr(other.meta.get("val"), "shape", None) != getattr(node.meta.get("val"), "shape", ()):
        return None
    order = {each: at for at, each in enumerate(program.nodes)}
    return place if order[other] < order[layer] else None


def _is_reshaped(user: Node, node: Node, layer: AffineLayer) -> bool:
    """Whether positions alone are merged or split, and outputs stay the last dimension."""
    if layer.spatial or user.target not in RESHAPES:
        return False
    before, after = (str(each.meta["val"].shape[-1]) for each in (node, user))
    return before.isdecimal() and before == after


def _scale(norm: Node, program: Program, slim: GraphModule) -> Tensor | None:
    """Gamma / sqrt(var + eps) of the slim model, float64."""
    bound: dict[str, Any] = bind(norm)
    found = [_tensor(bound[name], program, slim) for name in ("weight", "running_var")]
    gamma, variance = found
    if variance is None or (gamma is None and bound["weight"] is not None):
        return None
    inverse: Tensor = (variance.double() + bound["eps"]).rsqrt()
    return inverse if gamma is None else gamma.double() * inverse


def _tensor(node: Any, program: Program, slim: GraphModule) -> Tensor | None:
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    name = program.canonical(str(node.target))
    owner, _, own = name.rpartition(".")
    found = getattr(slim.get_submodule(owner), own, None)
    return found if isinstance(found, Tensor) else None
