"""Costs as polynomials: monomials while they are collected, index tables when they are evaluated.

A cost is a sum of monomials, each a coefficient times a product of columns. A column is the size of a group or a sum of
monomials itself (the size of a concatenated axis). Like terms are merged, the terms of a table sorted by degree, and
a table is evaluated for many candidates at once:

    products[t, c] = columns[i, c] * columns[j, c] * ...        (i, j, ... the columns of term t)
    result[r, c]   = sum_t matrix[r, t] * products[t, c]

All counts are integers below 2 ** 53, so that float64 sums are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 18
"""Numbers held at once per table while candidates are evaluated: a few megabytes."""
Polynomial: TypeAlias = Mapping[tuple[int, ...], float]
"""Sorted columns of each monomial -> its coefficient."""


@dataclass(frozen=True, slots=True)
class Monomial:
    """A coefficient times a product of columns; the size of an axis, or a product of such.

    Attributes:
        coefficient: a number; an integer unless the analysis found a size that is a fraction of another.
        columns: sorted columns, with repetition; empty for a constant.
    """

    coefficient: float
    columns: tuple[int, ...] = ()

    def __mul__(self, other: Monomial | float) -> Monomial:
        """Product with another monomial or a number."""
        if not isinstance(other, Monomial):
            return Monomial(self.coefficient * other, self.columns)
        columns = self.columns
        if other.columns:
            columns = tuple(sorted(columns + other.columns)) if columns else other.columns
        return Monomial(self.coefficient * other.coefficient, columns)

    __rmul__ = __mul__

    @property
    def is_one(self) -> bool:
        """Whether this is the constant 1, the size that broadcasting lets meet any other."""
        return self.coefficient == 1 and not self.columns


Shape: TypeAlias = tuple[Monomial, ...]
"""Sizes of a tensor's dimensions."""

ONE = Monomial(1)


def volume(shape: Iterable[Monomial]) -> Monomial:
    """Number of elements of a tensor of that shape."""
    coefficient: float = 1
    columns: tuple[int, ...] = ()
    for size in shape:
        coefficient *= size.coefficient
        if size.columns:
            columns += size.columns
    return Monomial(coefficient, tuple(sorted(columns)) if len(columns) > 1 else columns)


def collect(terms: Iterable[Monomial]) -> dict[tuple[int, ...], float]:
    """The sum of `terms`, like terms merged."""
    merged: defaultdict[tuple[int, ...], float] = defaultdict(int)
    for term in terms:
        merged[term.columns] += term.coefficient
    return {columns: coefficient for columns, coefficient in merged.items() if coefficient}


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Several polynomials over the same monomials, ready to be evaluated.

    Attributes:
        factors: for each degree the columns of that factor, of the terms that have it; terms are sorted by falling
            degree.
        matrix: coefficients [polynomials, terms].
    """

    factors: tuple[NDArray[np.intp], ...]
    matrix: NDArray[np.float64]

    @property
    def terms(self) -> int:
        """Number of monomials."""
        return int(self.matrix.shape[1])

    def evaluate(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [polynomials, candidates] for columns [columns, candidates]."""
        first, *others = self.factors
        products = columns[first]
        for factor in others:
            products[: len(factor)] *= columns[factor]
        return self.matrix @ products


def compile_table(terms: Sequence[tuple[int, ...]], matrix: NDArray[np.float64], unit: int) -> Table:
    """A table of polynomials with the given coefficients [polynomials, terms].

    Args:
        terms: columns of each monomial.
        matrix: coefficients.
        unit: the column that is 1 throughout, for the constant term.
    """
    order = sorted(range(len(terms)), key=lambda index: -len(terms[index]))
    ordered = [terms[index] or (unit,) for index in order]
    degree = max((len(term) for term in ordered), default=1)
    factors = tuple(np.array([term[at] for term in ordered if len(term) > at], dtype=np.intp) for at in range(degree))
    return Table(factors, np.ascontiguousarray(matrix[:, order]))


def tabulate(polynomials: Sequence[Polynomial], unit: int) -> Table:
    """A table of polynomials that were collected one by one."""
    position: dict[tuple[int, ...], int] = {}
    for polynomial in polynomials:
        for term in polynomial:
            position.setdefault(term, len(position))
    matrix = np.zeros((len(polynomials), len(position)))
    for row, polynomial in enumerate(polynomials):
        for term, coefficient in polynomial.items():
            matrix[row, position[term]] = coefficient
    return compile_table(list(position), matrix, unit)


def chunks(candidates: int, terms: int) -> Iterator[slice]:
    """Parts of so many candidates that tables of so many monomials are evaluated at together."""
    step = max(CHUNK // max(terms, 1), 64)
    yield from (slice(start, start + step) for start in range(0, candidates, step))
