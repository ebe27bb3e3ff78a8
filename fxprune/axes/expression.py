"""Axis expressions: what one axis of one tensor is made of.

An axis is

    axis ::= Variable(size)                free, or pinned with a reason
           | Product(axis, axis, ...)      row-major: what `view(B, N, 12, 64)` makes of 768 is 12 x 64
           | Concat(axis, axis, ...)       what `cat([a, b], dim=1)` makes, what `chunk` and `slice` ask for

A Variable stands for "these indices go together": wherever the same variable occurs, the same indices are kept. The
solver (`fxprune.axes.solver`) binds variables while it unifies; after `settle` an expression holds unbound variables
only.

Axes of size 1 take no part: there is nothing to cut in them, and broadcasting lets them meet any other axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch.fx import Node


@dataclass(frozen=True, slots=True)
class Pin:
    """Why an axis must keep its size: a short reason, and the operation that asks for it."""

    reason: str
    node: Node | None = None


class Variable:
    """A set of indices that is kept or cut as one, wherever it occurs.

    Mutable only while the solver runs: `bound` then points to what the variable was found to equal.

    Attributes:
        size: number of indices.
        pin: why nothing may be cut, or None while the variable is free.
        bound: the expression that this variable stands for, or None.
        kind: what the indices are ("heads", "head dimensions", "groups", ...), as far as an operation told.
    """

    __slots__ = ("bound", "kind", "pin", "size")

    def __init__(self, size: int, pin: Pin | None = None, kind: str | None = None) -> None:
        """Make an unbound variable of `size` indices."""
        self.size = size
        self.pin = pin
        self.kind = kind
        self.bound: Axis | None = None

    def __repr__(self) -> str:
        """Size, with `!` when pinned and a tag that tells variables of one size apart."""
        return f"{self.size}{'!' if self.pin else ''}#{id(self) % 9973}"


class Product:
    """Row-major product of axes: index (i0, i1, ...) is i0 * size1 * size2 ... + i1 * size2 ... + ..."""

    __slots__ = ("factors", "size", "variables")

    def __init__(self, factors: tuple[Axis, ...]) -> None:
        """Make the product of `factors`, outermost first."""
        self.factors = factors
        self.variables: tuple[Variable, ...] | None = None
        self.size: int = prod(factor.size for factor in factors)

    def __repr__(self) -> str:
        """Factors joined by x."""
        return "(" + " x ".join(map(repr, self.factors)) + ")"


class Concat:
    """Concatenation of axes, first part first."""

    __slots__ = ("parts", "size", "variables")

    def __init__(self, parts: tuple[Axis, ...]) -> None:
        """Make the concatenation of `parts`; empty ones are left out."""
        self.parts = tuple(part for part in parts if part.size)
        self.variables: tuple[Variable, ...] | None = None
        self.size: int = sum(part.size for part in self.parts)

    def __repr__(self) -> str:
        """Parts joined by +."""
        return "[" + " + ".join(map(repr, self.parts)) + "]"


Axis: TypeAlias = Variable | Product | Concat
Axes: TypeAlias = tuple[Axis, ...]


def head(axis: Axis) -> Axis:
    """Follow bindings and unwrap one-element products and concatenations, until something of substance is reached."""
    while True:
        if isinstance(axis, Variable):
            if axis.bound is None:
                return axis
            axis = _shortcut(axis)
        elif isinstance(axis, Product):
            factors = [factor for factor in axis.factors if factor.size != 1]
            if len(factors) != 1:
                return axis
            axis = factors[0]
        elif len(axis.parts) == 1:
            axis = axis.parts[0]
        else:
            return axis


def _shortcut(variable: Variable) -> Axis:
    """Target of a bound variable, with the chain of bindings shortened on the way (path compression)."""
    target = variable.bound
    assert target is not None
    while isinstance(target, Variable) and target.bound is not None:
        target = target.bound
    variable.bound = target
    return target


def factors_of(axis: Axis) -> list[Axis]:
    """Flat list of factors, outermost first, without units; each is a Variable or a Concat."""
    axis = head(axis)
    if not isinstance(axis, Product):
        return [] if axis.size == 1 else [axis]
    return [leaf for factor in axis.factors for leaf in factors_of(factor)]


def parts_of(axis: Axis) -> list[Axis]:
    """Flat list of parts, first one first, without empty ones; each is a Variable or a Product."""
    axis = head(axis)
    if not isinstance(axis, Concat):
        return [axis] if axis.size else []
    return [leaf for part in axis.parts for leaf in parts_of(part)]


def product(factors: list[Axis]) -> Axis:
    """Product of `factors`; a single one is itself, none is the unit axis."""
    if len(factors) == 1:
        return factors[0]
    return Product(tuple(factors)) if factors else Variable(1)


def concat(parts: list[Axis]) -> Axis:
    """Concatenation of `parts`; a single one is itself, none is the empty axis."""
    if len(parts) == 1:
        return parts[0]
    return Concat(tuple(parts)) if parts else Variable(0)


def leaves(axis: Axis) -> Iterator[Variable]:
    """Every unbound variable in the expression, in order, with repetition; units included."""
    axis = head(axis)
    if isinstance(axis, Variable):
        yield axis
    elif axis.variables is not None:
        yield from axis.variables
    else:
        for child in axis.factors if isinstance(axis, Product) else axis.parts:
            yield from leaves(child)


def size_at(axis: Axis, widths: Mapping[Variable, int]) -> int:
    """Size of a settled expression at these widths; other variables keep theirs.

    Example:
        >>> kept, whole = Variable(4), Variable(8)
        >>> size_at(Product((kept, whole)), {kept: 3})
        24
    """
    if isinstance(axis, Variable):
        return widths.get(axis, axis.size)
    sizes = [size_at(each, widths) for each in (axis.factors if isinstance(axis, Product) else axis.parts)]
    return prod(sizes) if isinstance(axis, Product) else sum(sizes)


def settle(axis: Axis) -> Axis:
    """The expression with all bindings followed and nested products and concatenations flattened."""
    axis = head(axis)
    if isinstance(axis, Variable):
        return axis
    if isinstance(axis, Product):
        settled = product([settle(factor) for factor in factors_of(axis)])
    else:
        settled = concat([settle(part) for part in parts_of(axis)])
    if not isinstance(settled, Variable):
        settled.variables = tuple(leaves(settled))
    return settled
