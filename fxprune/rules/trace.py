"""What a rule works with: the axes of every value so far, and the few verbs that relate axes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from fxprune.axes.expression import Axes, Axis, Pin, Product, Variable, concat, head, product
from fxprune.axes.solver import Solver

if TYPE_CHECKING:
    from torch.fx import Node

UNKNOWN_SIZE = 8191
"""Stands for a size that depends on data (a prime, so that it factors with nothing)."""


class Trace:
    """The analysis under way: the current node, its result's shape, and the solver.

    Attributes:
        solver: unifies axes.
        node: the operation whose rule is running.
        shape: sizes of its (first) result, symbolic ones at their hints.
        mixed: for each operation the axes along which it combines different indices; pinned ones included.
        numbered: operations whose results speak of an axis by the numbers of its indices, or count them -> the axis.
        needed: axes of which at least so many indices have to stay.
    """

    __slots__ = ("mixed", "needed", "node", "numbered", "shape", "solver")

    def __init__(self, solver: Solver) -> None:
        """Start before the first operation."""
        self.solver = solver
        self.node: Node | None = None
        self.shape: tuple[int, ...] = ()
        self.mixed: dict[Node, list[Axis]] = {}
        self.numbered: dict[Node, Axis] = {}
        self.needed: list[tuple[Axis, int]] = []

    def enter(self, node: Node) -> None:
        """Make `node` the current operation."""
        self.node = self.solver.node = node
        shapes = result_shapes(node)
        self.shape = (shapes[0] or ()) if shapes else ()

    def unify(self, left: Axis, right: Axis) -> None:
        """Demand that two axes hold the same indices."""
        self.solver.unify(left, right)

    def pin(self, axis: Axis, reason: str) -> None:
        """Forbid cutting `axis`, which counts as mixed too."""
        self.solver.pin(axis, reason)
        self.mix(axis)

    def pin_all(self, axes: Axes, reason: str) -> None:
        """Forbid cutting any of `axes`."""
        for axis in axes:
            self.pin(axis, reason)

    def mix(self, *axes: Axis) -> None:
        """Say that the operation combines different indices of `axes`: sums, averages, compares or moves along them.

        What is chosen anew for each index of another axis (nested choice) must not be mixed along that axis.
        """
        assert self.node is not None
        self.mixed.setdefault(self.node, []).extend(axes)

    def fixed(self, size: int, reason: str = "made by an operation") -> Variable:
        """A new axis that cannot be cut."""
        return Variable(size, Pin(reason, self.node))

    def fixed_axes(self, sizes: Sequence[int], reason: str = "made by an operation") -> Axes:
        """New axes that cannot be cut."""
        pin = Pin(reason, self.node)
        return tuple(Variable(size, pin) for size in sizes)

    def fresh(self, size: int) -> Variable:
        """A new axis that nothing is known about yet."""
        return Variable(size)

    def label(self, axis: Axis, kind: str) -> None:
        """Say what the indices of `axis` are, for the report; products and concatenations are left alone."""
        axis = head(axis)
        if isinstance(axis, Variable) and axis.kind is None:
            axis.kind = kind

    def number(self, axis: Axis, node: Node, *, at_least: int = 1) -> None:
        """Say that a result of `node` numbers or counts experts along `axis`, so many of which have to stay."""
        self.numbered[node] = axis
        self.needed.append((axis, at_least))
        axis = head(axis)
        if isinstance(axis, Variable):
            axis.kind = "experts"

    def broadcast(self, operands: Sequence[Axes]) -> Axes:
        """Axes of an element-wise result: dimensions are aligned from the right; size 1 meets anything."""
        rank = max((len(axes) for axes in operands), default=0)
        return tuple(self._broadcast_dimension(operands, position) for position in range(-rank, 0))

    def _broadcast_dimension(self, operands: Sequence[Axes], position: int) -> Axis:
        result: Axis | None = None
        for axes in operands:
            if len(axes) < -position:
                continue
            axis = axes[position]
            if result is None or result.size == 1:
                result = axis
            elif axis.size != 1:
                self.solver.unify(result, axis)
        assert result is not None
        return result

    def parts(self, axis: Axis, sizes: Sequence[int], reason: str) -> list[Axis]:
        """Cut `axis` into consecutive parts of the given sizes; where its structure forbids that, it is pinned."""
        rest, found = axis, list[Axis]()
        for size in sizes:
            pair = self.solver.split(rest, size)
            if pair is None:
                self.pin(axis, reason)
                return [self.fixed(each, reason) for each in sizes]
            found.append(pair[0])
            rest = pair[1]
        return found

    def reshape(self, axes: Axes, shape: Sequence[int]) -> Axes:
        """Axes after a row-major reshape: dimensions are grouped where running products meet, and matched there."""
        result: list[Axis] = []
        for sources, sizes in _segments(axes, shape):
            result.extend(self._reshape_segment(sources, sizes))
        return tuple(result)

    def _reshape_segment(self, sources: list[Axis], sizes: list[int]) -> list[Axis]:
        wide = [size for size in sizes if size != 1]
        if len(wide) <= 1:
            merged = product([axis for axis in sources if axis.size != 1])
            return [Variable(1) if size == 1 else merged for size in sizes]
        made = [self.fresh(size) for size in sizes]
        self.solver.unify(Product(tuple(sources)), Product(tuple(axis for axis in made if axis.size != 1)))
        return list(made)

    def join(self, parts: Sequence[Axis]) -> Axis:
        """Concatenation of `parts`."""
        return concat(list(parts))


def _segments(axes: Axes, shape: Sequence[int]) -> list[tuple[list[Axis], list[int]]]:
    """Group the dimensions of a reshape into the finest runs with equal products."""
    segments: list[tuple[list[Axis], list[int]]] = []
    sources, sizes = list(axes)[::-1], list(shape)[::-1]
    while sources or sizes:
        left: list[Axis] = [sources.pop()] if sources else []
        right: list[int] = [sizes.pop()] if sizes else []
        here, there = left[0].size if left else 1, right[0] if right else 1
        while here != there:
            if here < there and sources:
                left.append(sources.pop())
                here *= left[-1].size
            elif sizes:
                right.append(sizes.pop())
                there *= right[-1]
            else:
                left.extend(sources[::-1])
                return [*segments, (left, right)]
        segments.append((left, right))
    return segments


def result_shapes(node: Node) -> list[tuple[int, ...] | None]:
    """Shapes of a node's results, one per result; None for one that is no tensor. Read off once, when captured."""
    known: list[tuple[int, ...] | None] | None = node.meta.get("shapes")
    if known is not None:
        return known
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [tuple(map(hint, each.shape)) if isinstance(each, torch.Tensor) else None for each in values]


def hint(size: Any) -> int:
    """A size as a plain number: itself, or what a symbolic one was when the model was captured."""
    if isinstance(size, int):
        return size
    value = size.node.hint
    return UNKNOWN_SIZE if value is None else int(value)


def boundaries(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of consecutive parts."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return list(pairwise(ends))
