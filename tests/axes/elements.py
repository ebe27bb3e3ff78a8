"""What an axis expression means, said by brute force: the list of its elements, each a tuple of (variable, index).

Shares no code with the package: bindings are followed here, products and concatenations written out element by element.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fxprune.axes import Axis, Concat, Product, Variable

Element = tuple[tuple[Variable, int], ...]
Kept = Mapping[Variable, Sequence[int]]


def elements(axis: Axis) -> list[Element]:
    """Elements in order; what cannot be cut (pinned, or alone) is not told apart."""
    while isinstance(axis, Variable) and axis.bound is not None:
        axis = axis.bound
    if isinstance(axis, Variable):
        whole = axis.pin is not None or axis.size == 1
        return [() if whole else ((axis, index),) for index in range(axis.size)]
    if isinstance(axis, Product):
        return [sum(each, ()) for each in itertools.product(*map(elements, axis.factors))]
    return [element for part in axis.parts for element in elements(part)]


def positions(axis: Axis, kept: Kept) -> list[int]:
    """Positions of the elements all of whose indices are kept."""
    return [
        at
        for at, element in enumerate(elements(axis))
        if all(index in kept.get(variable, range(variable.size)) for variable, index in element)
    ]


def free_variables(axes: Iterable[Axis]) -> list[Variable]:
    """Variables that can be cut, in order of appearance."""
    return list(dict.fromkeys(variable for axis in axes for element in elements(axis) for variable, _ in element))


def kept_elements(axes: Sequence[Axis], kept: Kept) -> list[int]:
    """Row-major numbers of a tensor's kept elements."""
    shape = [axis.size for axis in axes]
    grid = np.ix_(*[np.array(positions(axis, kept), dtype=np.int64) for axis in axes])
    numbers: list[int] = np.arange(int(np.prod(shape))).reshape(shape)[grid].flatten().tolist()
    return numbers


def copy(axis: Axis, known: dict[Variable, Variable]) -> Axis:
    """The same expression over other variables."""
    if isinstance(axis, Variable):
        assert axis.bound is None
        return known.setdefault(axis, Variable(axis.size, axis.pin))
    if isinstance(axis, Product):
        return Product(tuple(copy(factor, known) for factor in axis.factors))
    return Concat(tuple(copy(part, known) for part in axis.parts))
