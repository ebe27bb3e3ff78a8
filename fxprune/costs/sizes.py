"""Shapes of the values of a captured graph, at the example inputs' own sizes and as functions of the groups' widths.

A graph whose batch size is free was captured at some batch size, not always the example's, and axes carry that size.
Here a symbolic size is evaluated anew: its expression, with the symbols replaced by the sizes of the example inputs.
Where such a size also holds groups (batch x heads), its constant part is scaled. A size that depends on data counts
as 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.fx._pytree import tree_flatten_spec

from fxprune.axes import Axes, Axis
from fxprune.costs.columns import Columns
from fxprune.costs.polynomial import Monomial, Shape
from fxprune.program import Program
from fxprune.propagate import Propagation

if TYPE_CHECKING:
    import sympy  # type: ignore[import-untyped]


class Sizes:
    """Shapes of a program's values; a builder, alive only while costs are built.

    Without a propagation all sizes are constants.
    """

    __slots__ = ("_columns", "_propagation", "_real", "_shapes", "_symbols")

    def __init__(self, program: Program, columns: Columns, propagation: Propagation | None = None) -> None:
        """Read the sizes of the example inputs."""
        self._columns = columns
        self._propagation = propagation
        self._symbols = dict(_symbols(program))
        self._real: dict[sympy.Expr, int] = {}
        self._shapes: dict[Node, tuple[Shape | None, ...]] = {}

    def results(self, node: Node) -> tuple[Shape | None, ...]:
        """Shape of each result of `node`; None for one that is no tensor."""
        found = self._shapes.get(node)
        if found is None:
            found = self._shapes[node] = self._results(node)
        return found

    def tensor(self, name: str, tensor: torch.Tensor) -> Shape:
        """Shape of a parameter, buffer or constant."""
        axes = None if self._propagation is None else self._propagation.tensors.get(name)
        if axes is None:
            return tuple(Monomial(size) for size in tensor.shape)
        return tuple([self._columns.size(axis) for axis in axes])

    def real(self, size: Any) -> int:
        """A size at the example inputs."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        found = self._real.get(expression)
        if found is None:
            value = expression.xreplace(self._symbols)
            found = self._real[expression] = int(value) if value.is_Integer else 1
        return found

    def _results(self, node: Node) -> tuple[Shape | None, ...]:
        value = node.meta.get("val")
        values = value if isinstance(value, list | tuple) else (value,)
        axes = None if self._propagation is None else self._propagation.values.get(node)
        several = axes if isinstance(value, list | tuple) else (axes,)
        return tuple(
            self._shape(each, axes) if isinstance(each, torch.Tensor) else None
            for each, axes in zip(values, several or (None,) * len(values), strict=True)
        )

    def _shape(self, value: torch.Tensor, axes: Axes | None) -> Shape:
        if axes is None:
            return tuple(Monomial(self.real(size)) for size in value.shape)
        return tuple([self._size(size, axis) for size, axis in zip(value.shape, axes, strict=True)])

    def _size(self, size: Any, axis: Axis) -> Monomial:
        found = self._columns.size(axis)
        if isinstance(size, int):
            return found
        real = self.real(size)
        if not found.columns:
            return Monomial(real)
        scaled, rest = divmod(found.coefficient * real, axis.size)
        return Monomial(scaled if not rest else found.coefficient * real / axis.size, found.columns)


def _symbols(program: Program) -> Iterator[tuple[sympy.Symbol, sympy.Integer]]:
    """Each symbol that the sizes of the inputs are made of, with its value at the example inputs."""
    leaves = tree_flatten_spec((program.args, dict(program.kwargs)), program.in_spec)
    placeholders = program.graph_module.graph.find_nodes(op="placeholder")
    for node, leaf in zip(placeholders, leaves, strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and isinstance(leaf, torch.Tensor):
            for size, real in zip(value.shape, leaf.shape, strict=True):
                if not isinstance(size, int):
                    yield from _solve(size.node.expr, real)


def _solve(expression: sympy.Expr, real: int) -> Iterator[tuple[sympy.Symbol, sympy.Integer]]:
    import sympy

    if isinstance(expression, sympy.Symbol):
        yield expression, sympy.Integer(real)
    elif len(expression.free_symbols) == 1:
        symbol = next(iter(expression.free_symbols))
        for solution in sympy.solve(expression - real, symbol)[:1]:
            yield symbol, solution
