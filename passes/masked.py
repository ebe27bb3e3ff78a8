"""The original under a cut, without rewriting it: what the slim model has to compute (design: what a cut means).

Cut slices are silenced where they are consumed: in every operand of every contraction. Statistics along an axis
(norms, means) are taken over what is kept: the operands are packed, the operation runs, its result is spread out
again. All other operations run as they stand; what they make of cut slices is never looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Interpreter, Node

from fxprune.axes import Axes
from fxprune.cut import Cut
from fxprune.errors import GraphError
from fxprune.passes.slim import axes_of
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.rules import Resizing, Role, find_rule
from fxprune.rules.elementwise import TensorAxes


class MaskedOriginal(Interpreter):
    """Executes the captured graph with a cut silenced, on flat inputs of the batch size that the graph's hints have."""

    def __init__(self, program: Program, propagation: Propagation, cut: Cut) -> None:
        """Prepare to run; nothing of the program is changed."""
        super().__init__(program.graph_module)
        self.propagation = propagation
        self.cut = cut
        self._masks: dict[Axes, Tensor | None] = {}

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the original; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target))

    def run_node(self, n: Node) -> Any:
        """Run one node, silenced or packed as its role demands."""
        if n.op != "call_function" or not self._reads_cut(n):
            return super().run_node(n)
        if isinstance(n.target, OpOverload) and torch.Tag.nondeterministic_seeded in n.target.tags:
            return self._run_packed(n)  # so that the slim model draws the same numbers
        found = find_rule(n.target)
        role = Role.POINTWISE if found is None else found.role
        if role is Role.POINTWISE:
            return super().run_node(n)
        return self._run_silenced(n) if role is Role.CONTRACTION else self._run_packed(n)

    def _reads_cut(self, node: Node) -> bool:
        """Whether a cut lies on an axis of an argument, or is what an operation counts along."""
        return self.cut.touches(self.propagation.mixed.get(node, ())) or any(
            self.cut.touches(axes) for each in node.all_input_nodes for axes in axes_of(self.propagation, each)
        )

    def _run_silenced(self, node: Node) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), self._silenced)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _silenced(self, node: Node) -> Any:
        value, axes = self.env[node], self.propagation.values.get(node)
        if not isinstance(axes, TensorAxes) or not isinstance(value, Tensor):
            return value
        if not value.is_floating_point() and not value.is_complex():
            return value  # offsets: they say where rows lie, and are no factor
        mask = self._mask(axes, value)
        return (
            value if mask is None else torch.where(mask, value, torch.zeros((), dtype=value.dtype, device=value.device))
        )

    def _mask(self, axes: TensorAxes, value: Tensor) -> Tensor | None:
        if axes not in self._masks:
            self._masks[axes] = self.cut.mask(axes, value.device)
        return self._masks[axes]

    def _run_packed(self, node: Node) -> Any:
        rule = find_rule(node.target)
        assert rule is not None
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), self._packed)
        if rule.resize is not None:
            args, kwargs = rule.resize(Resizing(node, args, kwargs, self.propagation.values, self.cut.count, Graph()))
        assert callable(node.target)
        result = node.target(*args, **kwargs)
        axes = self.propagation.values[node]
        if isinstance(axes, TensorAxes):
            return spread(result, axes, self.cut, node)
        return tuple(spread(each, own, self.cut, node) for each, own in zip(result, axes, strict=True))

    def _packed(self, node: Node) -> Any:
        value, axes = self.env[node], self.propagation.values.get(node)
        if isinstance(axes, TensorAxes) and isinstance(value, Tensor):
            return self.cut.slice(value, axes)
        return value


def spread(result: Tensor, axes: Axes, cut: Cut, node: Node) -> Tensor:
    """A packed result at the original's size, zero where cut.

    Raises:
        GraphError: the result has not the size that the cut leaves.
    """
    if not cut.touches(axes):
        return result
    sizes = zip(axes, result.shape, strict=True)
    shape = [axis.size if cut.count(axis) != axis.size else size for axis, size in sizes]
    full = result.new_zeros(shape)
    places = cut.slice(torch.arange(full.numel(), device=result.device).reshape(shape), axes)
    if places.shape != result.shape:
        msg = f"{node.target} returned {tuple(result.shape)} where {tuple(places.shape)} is kept"
        raise GraphError(msg, node)
    full.view(-1)[places.flatten()] = result.flatten()
    return full


def private(value: Any) -> Any:
    """A copy of a tensor that is no parameter: forward may write to buffers, and they are the user's."""
    return value.clone() if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter) else value
