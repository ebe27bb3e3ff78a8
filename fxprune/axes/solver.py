"""Unification of axis expressions.

    v          = e            bind v to e; a pin on v pins all of e
    a x b      = c x d        align from the right: the larger factor is split by the smaller (768 = 12 x 64)
    [a + b]    = [c + d]      cut both at the union of the boundaries
    [a + b]    = c x d        c = [a' + b'], a = a' x d, b = b' x d, when every boundary is a multiple of d

What cannot be matched this way is pinned on both sides and recorded as a conflict: the model is then pruned less there,
never wrongly. Termination: every step binds a variable or descends to strictly smaller expressions. No occurs check is
needed, since a product or concatenation of more than one axis is larger than each of its variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxprune.axes.expression import (
    Axis,
    Concat,
    Pin,
    Product,
    Variable,
    concat,
    factors_of,
    head,
    leaves,
    parts_of,
    product,
)

if TYPE_CHECKING:
    from torch.fx import Node


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two expressions that had to be equal and could not be matched; both were pinned."""

    left: str
    right: str
    node: Node | None


class Solver:
    """State of one analysis: the operation being looked at, and the conflicts met so far."""

    __slots__ = ("conflicts", "node")

    def __init__(self) -> None:
        """Start with nothing unified."""
        self.node: Node | None = None
        self.conflicts: list[Conflict] = []

    def unify(self, left: Axis, right: Axis) -> None:
        """Demand that two axes are the same indices."""
        left, right = head(left), head(right)
        if left is right or left.size <= 1:
            return
        assert left.size == right.size, f"{left} and {right} are of different sizes at {self.node}"
        if isinstance(left, Variable):
            _bind(left, right)
        elif isinstance(right, Variable):
            _bind(right, left)
        elif isinstance(left, Product) and isinstance(right, Product):
            self._unify_products(left, right)
        elif isinstance(left, Concat) and isinstance(right, Concat):
            self._unify_concats(left, right)
        elif isinstance(left, Concat) and isinstance(right, Product):
            self._distribute(left, right)
        elif isinstance(left, Product) and isinstance(right, Concat):
            self._distribute(right, left)

    def pin(self, axis: Axis, reason: str) -> None:
        """Forbid cutting anywhere in `axis`, on behalf of the current operation."""
        _pin_leaves(axis, Pin(reason, self.node))

    def factor(self, axis: Axis, inner: int) -> tuple[Axis, Axis] | None:
        """Write `axis` as outer x inner with an inner of that size, or None where its structure does not allow it."""
        axis = head(axis)
        if axis.size % inner:
            return None
        if isinstance(axis, Variable):
            return _factor_variable(axis, inner)
        if isinstance(axis, Concat):
            return self._factor_concat(axis, inner)
        return self._factor_product(axis, inner)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis] | None:
        """Write `axis` as [first + second] with a first part of size `at`, or None where its structure forbids it."""
        axis = head(axis)
        if at in (0, axis.size):
            return (Variable(0), axis) if at == 0 else (axis, Variable(0))
        if isinstance(axis, Variable):
            return _split_variable(axis, at)
        if isinstance(axis, Concat):
            return self._split_concat(axis, at)
        return self._split_product(axis, at)

    def _unify_products(self, left: Product, right: Product) -> None:
        lefts, rights = factors_of(left), factors_of(right)
        while lefts and rights:
            a, b = lefts.pop(), rights.pop()
            if a.size == b.size:
                self.unify(a, b)
                continue
            large, small, rest = (a, b, lefts) if a.size > b.size else (b, a, rights)
            pair = self.factor(large, small.size)
            if pair is None:
                self._conflict(left, right)
                return
            rest.extend(factors_of(pair[0]))
            self.unify(pair[1], small)

    def _unify_concats(self, left: Concat, right: Concat) -> None:
        lefts, rights = parts_of(left)[::-1], parts_of(right)[::-1]
        while lefts and rights:
            a, b = lefts.pop(), rights.pop()
            if a.size == b.size:
                self.unify(a, b)
                continue
            large, small, rest = (a, b, lefts) if a.size > b.size else (b, a, rights)
            pair = self.split(large, small.size)
            if pair is None:
                self._conflict(left, right)
                return
            rest.extend(parts_of(pair[1])[::-1])
            self.unify(pair[0], small)

    def _distribute(self, left: Concat, right: Product) -> None:
        outer, *inner = factors_of(right)
        size = right.size // outer.size
        pair = self._factor_concat(left, size)
        if pair is None:
            self._conflict(left, right)
            return
        self.unify(pair[0], outer)
        self.unify(pair[1], product(inner))

    def _factor_concat(self, axis: Concat, inner: int) -> tuple[Axis, Axis] | None:
        pairs = [self._factor_run(run, inner) for run in _runs(axis, inner)]
        if any(pair is None for pair in pairs):
            return None
        found = [pair for pair in pairs if pair is not None]
        for _, other in found[1:]:
            self.unify(found[0][1], other)
        return concat([pair[0] for pair in found]), found[0][1]

    def _factor_run(self, run: Axis, inner: int) -> tuple[Axis, Axis] | None:
        if run.size == inner:
            return Variable(1), run
        return None if isinstance(run, Concat) else self.factor(run, inner)

    def _factor_product(self, axis: Product, inner: int) -> tuple[Axis, Axis] | None:
        outers, inners = factors_of(axis), list[Axis]()
        remaining = inner
        while remaining > 1:
            last = outers.pop()
            if remaining % last.size == 0:
                inners.insert(0, last)
                remaining //= last.size
                continue
            pair = self.factor(last, remaining) if last.size % remaining == 0 else None
            if pair is None:
                return None
            outers.extend(factors_of(pair[0]))
            inners.insert(0, pair[1])
            remaining = 1
        return product(outers), product(inners)

    def _split_concat(self, axis: Concat, at: int) -> tuple[Axis, Axis] | None:
        parts, first = parts_of(axis)[::-1], list[Axis]()
        while at:
            part = parts.pop()
            if part.size <= at:
                first.append(part)
                at -= part.size
                continue
            pair = self.split(part, at)
            if pair is None:
                return None
            first.append(pair[0])
            parts.append(pair[1])
            at = 0
        return concat(first), concat(parts[::-1])

    def _split_product(self, axis: Product, at: int) -> tuple[Axis, Axis] | None:
        outer, *inner = factors_of(axis)
        size = axis.size // outer.size
        if at % size:
            return self._split_concat(_distributed(outer, inner), at) if isinstance(outer, Concat) else None
        pair = self.split(outer, at // size)
        if pair is None:
            return None
        return product([*factors_of(pair[0]), *inner]), product([*factors_of(pair[1]), *inner])

    def _conflict(self, left: Axis, right: Axis) -> None:
        if all(leaf.pin or leaf.size == 1 for each in (left, right) for leaf in leaves(each)):
            return
        self.conflicts.append(Conflict(_shape(left), _shape(right), self.node))
        reason = f"{_shape(left)} cannot be matched with {_shape(right)}"
        self.pin(left, reason)
        self.pin(right, reason)


def _runs(axis: Concat, inner: int) -> list[Axis]:
    """Consecutive parts, gathered until their total is a multiple of `inner`."""
    runs: list[list[Axis]] = [[]]
    for part in parts_of(axis):
        runs[-1].append(part)
        if sum(each.size for each in runs[-1]) % inner == 0:
            runs.append([])
    return [concat(run) for run in runs if run]


def _distributed(outer: Concat, inner: list[Axis]) -> Concat:
    """[a + 1 + b] x c as [a x c + c + b x c]: where a part of the outer axis is one index, c can be cut."""
    return Concat(tuple(product([*factors_of(part), *inner]) for part in parts_of(outer)))


def _bind(variable: Variable, target: Axis) -> None:
    if isinstance(target, Variable):
        target.pin = target.pin or variable.pin
        target.kind = target.kind or variable.kind
    elif variable.pin:
        _pin_leaves(target, variable.pin)
    variable.bound = target


def _pin_leaves(axis: Axis, pin: Pin) -> None:
    for leaf in leaves(axis):
        if leaf.pin is None:
            leaf.pin = pin


def _factor_variable(axis: Variable, inner: int) -> tuple[Axis, Axis]:
    if inner == axis.size:
        return Variable(1), axis
    if inner == 1:
        return axis, Variable(1)
    pair = Variable(axis.size // inner, axis.pin), Variable(inner, axis.pin)
    axis.bound = Product(pair)
    return pair


def _split_variable(axis: Variable, at: int) -> tuple[Axis, Axis]:
    pair = Variable(at, axis.pin, axis.kind), Variable(axis.size - at, axis.pin, axis.kind)
    axis.bound = Concat(pair)
    return pair


def _shape(axis: Axis) -> str:
    """Sizes of an expression as a person writes them: `64 x 12`, `32 + 32`."""
    axis = head(axis)
    if isinstance(axis, Variable):
        return str(axis.size)
    if isinstance(axis, Product):
        return " x ".join(f"({_shape(f)})" if isinstance(f, Concat) else _shape(f) for f in factors_of(axis))
    return " + ".join(map(_shape, parts_of(axis)))
