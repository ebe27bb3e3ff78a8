"""Sizes of axes as monomials over columns.

The size of an axis, by its expression:

Variable   the column of its group, or a constant where it belongs to none
Product    the product of its factors
Concat     a column of its own, the sum of its parts; the same sum is the same column wherever it occurs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxprune.axes import Axis, Concat, Product, Variable
from fxprune.costs.polynomial import Monomial, Polynomial, Table, collect, tabulate, volume


@dataclass(frozen=True, slots=True, eq=False)
class ColumnTable:
    """Computes all columns from the widths of the groups.

    Attributes:
        groups: number of groups, whose columns come first; the unit column follows, then the sums.
        levels: sums that need no other sums, then those that need only these, and so on: their columns, and their
        table.
    """

    groups: int
    levels: tuple[tuple[NDArray[np.intp], Table], ...]

    def evaluate(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Columns [columns, candidates] for widths [candidates, groups]."""
        sums = sum(len(rows) for rows, _ in self.levels)
        columns = np.empty((self.groups + 1 + sums, len(widths)))
        columns[: self.groups] = widths.T
        columns[self.groups] = 1
        for rows, table in self.levels:
            columns[rows] = table.evaluate(columns)
        return columns


class Columns:
    """Collects the columns that axes need; a builder, alive only while costs are built."""

    __slots__ = ("_by_parts", "_by_sum", "_known", "_levels", "_sums", "unit")

    def __init__(self, variables: Sequence[Variable]) -> None:
        """Start with one column per group variable."""
        self._known: dict[Axis, Monomial] = {variable: Monomial(1, (at,)) for at, variable in enumerate(variables)}
        self.unit = len(variables)
        self._sums: list[Polynomial] = []
        self._levels: list[int] = []
        self._by_sum: dict[frozenset[tuple[tuple[int, ...], float]], Monomial] = {}
        self._by_parts: dict[tuple[Axis, ...], Monomial] = {}

    def size(self, axis: Axis) -> Monomial:
        """The size of `axis`."""
        found = self._known.get(axis)
        if found is None:
            found = self._known[axis] = self._size(axis)
        return found

    def compile(self) -> ColumnTable:
        """The columns as tables."""
        levels = []
        for level in sorted(set(self._levels)):
            members = [at for at, own in enumerate(self._levels) if own == level]
            rows = np.array(members, dtype=np.intp) + self.unit + 1
            levels.append((rows, tabulate([self._sums[at] for at in members], self.unit)))
        return ColumnTable(self.unit, tuple(levels))

    def _size(self, axis: Axis) -> Monomial:
        if isinstance(axis, Variable):
            return Monomial(axis.size)
        if isinstance(axis, Product):
            return volume(self.size(factor) for factor in axis.factors)
        found = self._by_parts.get(axis.parts)
        if found is None:
            found = self._by_parts[axis.parts] = self._sum(axis)
        return found

    def _sum(self, axis: Concat) -> Monomial:
        terms = collect(self.size(part) for part in axis.parts)
        if len(terms) == 1:
            columns, coefficient = next(iter(terms.items()))
            return Monomial(coefficient, columns)
        key = frozenset(terms.items())
        found = self._by_sum.get(key)
        if found is None:
            found = self._by_sum[key] = Monomial(1, (self.unit + 1 + len(self._sums),))
            self._levels.append(1 + max(self._level(column) for term in terms for column in (*term, self.unit)))
            self._sums.append(terms)
        return found

    def _level(self, column: int) -> int:
        return self._levels[column - self.unit - 1] if column > self.unit else 0
