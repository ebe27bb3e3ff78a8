"""Random axis expressions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import prod

from hypothesis import strategies as st

from fxprune.axes import Axis, Concat, Pin, Product, Variable

SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 18, 24, 30, 36, 60)
"""Primes among them, and numbers that divide in many ways."""


@dataclass
class Maker:
    """Draws expressions; variables of one size may occur several times, in one expression or in several."""

    data: st.DataObject
    repeat: bool = True
    pins: bool = True
    pool: dict[int, list[Variable]] = field(default_factory=dict)

    def expression(self, size: int, depth: int = 3) -> Axis:
        """Any expression of that size."""
        form = self.data.draw(st.sampled_from(["variable", "product", "concat"])) if depth and size > 1 else "variable"
        if form == "product":
            factors = self.data.draw(factorisations(size))
            return Product(tuple(self.expression(factor, depth - 1) for factor in factors))
        if form == "concat":
            cuts = sorted(self.data.draw(st.sets(st.integers(1, size - 1), max_size=2)))
            parts = [end - start for start, end in itertools.pairwise([0, *cuts, size])]
            return Concat(tuple(self.expression(part, depth - 1) for part in parts))
        return self.variable(size)

    def variable(self, size: int) -> Variable:
        """A new variable, or one that occurs already."""
        known = self.pool.setdefault(size, [])
        if self.repeat and known and self.data.draw(st.booleans()):
            return self.data.draw(st.sampled_from(known))
        pinned = self.pins and self.data.draw(st.integers(0, 9)) == 0
        made = Variable(size, Pin("drawn") if pinned else None)
        known.append(made)
        return made


@st.composite
def factorisations(draw: st.DrawFn, size: int) -> list[int]:
    """Up to four factors of a size, units among them."""
    factors, rest = list[int](), size
    for _ in range(draw(st.integers(0, 3))):
        factors.append(draw(st.sampled_from([each for each in range(1, rest + 1) if rest % each == 0])))
        rest //= factors[-1]
    return draw(st.permutations([*factors, rest]))


@st.composite
def truths(draw: st.DrawFn, depth: int = 3) -> Axis:
    """An expression whose variables all differ: what an axis really is. Parts of concatenations are no units."""
    form = draw(st.sampled_from(["variable", "product", "concat"])) if depth else "variable"
    if form == "variable":
        return Variable(draw(st.integers(2, 6)))
    children = tuple(draw(st.lists(truths(depth - 1), min_size=2, max_size=3)))
    return Product(children) if form == "product" else Concat(children)


def view(data: st.DataObject, truth: Axis) -> Axis:
    """What some operation may know of an axis: runs of neighbours, or all of it, are one variable to it."""
    if data.draw(st.integers(0, 4)) == 0:
        return Variable(truth.size)
    if isinstance(truth, Variable):
        return truth if data.draw(st.booleans()) else Variable(truth.size)
    children = truth.factors if isinstance(truth, Product) else truth.parts
    seen = tuple(_run(data, truth, run) for run in _runs(data, children))
    if isinstance(truth, Product) and isinstance(children[0], Concat) and data.draw(st.booleans()):
        return _distributed(data, children[0], children[1:])
    return Product(seen) if isinstance(truth, Product) else Concat(seen)


def _run(data: st.DataObject, truth: Axis, run: tuple[Axis, ...]) -> Axis:
    if len(run) == 1:
        return view(data, run[0])
    sizes = [each.size for each in run]
    return Variable(prod(sizes) if isinstance(truth, Product) else sum(sizes))


def _runs(data: st.DataObject, children: tuple[Axis, ...]) -> list[tuple[Axis, ...]]:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(children) - 1)))) if len(children) > 1 else []
    return [children[start:end] for start, end in itertools.pairwise([0, *cuts, len(children)])]


def _distributed(data: st.DataObject, outer: Concat, inner: tuple[Axis, ...]) -> Axis:
    """[a + b] x c as [a x c + b x c], where c may be the same or unknown."""
    rest = [view(data, each) for each in inner]
    if data.draw(st.booleans()):
        return Concat(tuple(Product((view(data, part), *rest)) for part in outer.parts))
    return Concat(tuple(Product((view(data, part), *(Variable(each.size) for each in rest))) for part in outer.parts))
