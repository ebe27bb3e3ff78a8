"""The switches of a silenced model: masks of all groups, gates that multiply by them, operations over what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from fxprune.cut import Cut
from fxprune.groups import Group
from fxprune.passes.masked import spread
from fxprune.propagate import Propagation
from fxprune.rules import Resizing, Rule
from fxprune.rules.elementwise import TensorAxes

if TYPE_CHECKING:
    pass

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


@dataclass(frozen=True, slots=True)
class Consumer:
    """A product that sums over a group's indices, and the gate in front of it.

    Attributes:
        node: the operation in the captured graph.
        group: name of the group.
        gate: name of the gate among the module's children; its output is the silenced operand.
        dims: dimensions of the operand on which the group's indices lie.
    """

    node: Node
    group: str
    gate: str
    dims: tuple[int, ...]


class Switch(nn.Module):
    """The masks of all groups, one after the other in one vector, and which of them silence anything.

    Attributes:
        masks: float32 [sum of group sizes + 1]; the last entry is 1 and stands for positions without a group.
        spans: group name -> where its mask begins in `masks`, and its shape.
        cut: what is silenced.
        touched: names of the groups of which something is silenced.
    """

    masks: Tensor

    def __init__(self, groups: Sequence[Group]) -> None:
        """Masks of ones."""
        super().__init__()
        self.spans: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for group in groups:
            shape = group.shape
            self.spans[group.name] = (end, shape)
            end += int(np.prod(shape))
        self.register_buffer("masks", torch.ones(end + 1), persistent=False)
        self.cut = Cut({}, {})
        self.touched: frozenset[str] = frozenset()

    def applies(self, groups: frozenset[str]) -> bool:
        """Whether a gate of these groups has to multiply."""
        return self.masks.requires_grad or not groups.isdisjoint(self.touched)

    def view(self, group: str, vector: Tensor) -> Tensor:
        """The part of a vector laid out as `masks` that belongs to a group: [size] or [outer size, size]."""
        start, shape = self.spans[group]
        return vector[start : start + int(np.prod(shape))].reshape(shape)


class Gate(nn.Module):
    """Multiplies an operand by the masks of groups at their axes; passes it on where they silence nothing."""

    switch: Switch
    groups: frozenset[str]
    count: int

    def __init__(self, switch: Switch, groups: frozenset[str], places: Sequence[Tensor]) -> None:
        """`places`: for each occurrence of a group the entry of the masks at each position, to be broadcast."""
        super().__init__()
        self.__dict__["switch"] = switch  # not a child: it has one place in the tree
        self.groups = groups
        self.count = len(places)
        for number, place in enumerate(places):
            self.register_buffer(f"place_{number}", place, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """The operand, silenced."""
        if not self.switch.applies(self.groups):
            return value
        for number in range(self.count):
            mask = self.switch.masks[getattr(self, f"place_{number}")].to(value.dtype)
            # Cut slices may hold anything, infinities too, that nothing else sees.
            value = value * mask if mask.requires_grad else torch.where(mask == 0, value.new_zeros(()), value)
        return value


class OverKept(nn.Module):
    """Runs an operation whose statistics run along groups' axes on what is kept, and spreads the result out again."""

    switch: Switch
    groups: frozenset[str]
    site: Site

    def __init__(self, switch: Switch, groups: frozenset[str], site: Site) -> None:
        """An operation at its site in the captured graph."""
        super().__init__()
        self.__dict__["switch"] = switch
        self.groups = groups
        self.site = site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The operation's result."""
        if self.groups.isdisjoint(self.switch.touched):
            return self.site.node.target(*args, **kwargs)  # type: ignore[operator]
        return self.site.run(self.switch.cut, args, kwargs)


@dataclass(frozen=True, slots=True)
class Site:
    """An operation in the captured graph, which is never edited: copies of a module share it."""

    node: Node
    rule: Rule
    propagation: Propagation

    def __deepcopy__(self, _: dict[int, Any]) -> Site:
        """Itself."""
        return self

    def run(self, cut: Cut, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pack the operands, run the operation with its sizes as cut, spread out what it returns."""
        origins = tree_leaves((self.node.args, dict(self.node.kwargs)))
        values, structure = tree_flatten((args, kwargs))
        packed = [self._packed(cut, origin, value) for origin, value in zip(origins, values, strict=True)]
        args, kwargs = tree_unflatten(packed, structure)
        if self.rule.resize is not None:
            sizes = self.propagation.values
            args, kwargs = self.rule.resize(Resizing(self.node, args, kwargs, sizes, cut.count, Graph()))
        result = self.node.target(*args, **kwargs)  # type: ignore[operator]
        axes = self.propagation.values[self.node]
        if isinstance(axes, TensorAxes):
            return spread(result, axes, cut, self.node)
        return tuple(spread(each, own, cut, self.node) for each, own in zip(result, axes, strict=True))

    def _packed(self, cut: Cut, origin: Any, value: Any) -> Any:
        axes = self.propagation.values.get(origin) if isinstance(origin, Node) else None
        return cut.slice(value, axes) if isinstance(axes, TensorAxes) and isinstance(value, Tensor) else value
