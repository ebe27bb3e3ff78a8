"""What a `resize` function works with: one operation's arguments in the slim graph, and the sizes that axes keep."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from fxprune.axes.expression import Axes, Axis

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Resizing:
    """One operation on its way into the slim graph.

    Attributes:
        node: the operation in the original graph.
        args: its positional arguments, nodes replaced by those of the slim graph.
        kwargs: its keyword arguments, likewise.
        axes: axes of every original value.
        kept: how many indices an axis keeps.
        graph: the slim graph, for arithmetic on symbolic sizes.
    """

    node: Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    axes: Mapping[Node, Any]
    kept: Callable[[Axis], int]
    graph: Graph

    @property
    def result(self) -> Any:
        """Axes of the operation's result (of each result, if there are several)."""
        return self.axes[self.node]

    def operand(self, position: int) -> Axes:
        """Axes of the tensor argument at `position`."""
        axes: Axes = self.axes[self.node.args[position]]  # type: ignore[index]
        return axes

    def changed(self, axis: Axis) -> bool:
        """Whether anything of `axis` is cut."""
        return self.kept(axis) != axis.size

    def size(self, argument: Any, axis: Axis) -> Any:
        """The slim value of an argument that gives the size of `axis`; -1 and unchanged sizes stay as they are."""
        kept = self.kept(axis)
        if kept == axis.size or (isinstance(argument, int) and argument < 0):
            return argument
        if isinstance(argument, int):
            return kept
        return _scaled(self.graph, argument, kept, axis.size)

    def with_argument(self, position: int, name: str, value: Any) -> Arguments:
        """The arguments with one of them replaced, by position if it was given so, else by name."""
        if position < len(self.args):
            return (*self.args[:position], value, *self.args[position + 1 :]), self.kwargs
        return self.args, {**self.kwargs, name: value}


def _scaled(graph: Graph, size: Node, kept: int, original: int) -> Node:
    """`size * kept // original`: exact, since a symbolic size is a multiple of the static part that was cut."""
    grown = graph.call_function(operator.mul, (size, kept))
    return graph.call_function(operator.floordiv, (grown, original))
