from __future__ import annotations

from math import prod

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.axes import Axes, Axis, Product, Variable
from fxprune.cut import Cut
from tests.axes.elements import elements
from tests.axes.expressions import Maker


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_nested_choice_keeps_other_indices_for_each_outer_index(data: st.DataObject) -> None:
    """Outer before inner in one product, or on another dimension, among other structure."""
    outer, inner = Variable(data.draw(st.integers(2, 4))), Variable(data.draw(st.integers(2, 4)))
    maker = Maker(data, repeat=False, pins=False)
    other = maker.expression(data.draw(st.sampled_from([2, 4, 6])), depth=2)
    axes = data.draw(st.sampled_from(_forms(outer, inner, other)))
    count = data.draw(st.integers(1, inner.size))
    rows = [sorted(data.draw(st.permutations(range(inner.size)))[:count]) for _ in range(outer.size)]
    kept_outer = sorted(data.draw(st.sets(st.integers(0, outer.size - 1), min_size=1)))
    cut = Cut({inner: np.array(rows), outer: np.array(kept_outer)}, {inner: outer})
    shape = [axis.size for axis in axes]
    found = cut.slice(torch.arange(prod(shape)).reshape(shape), axes)
    assert sorted(int(each) for each in found.flatten()) == _expected(axes, outer, kept_outer, inner, rows)
    assert list(found.shape) == [cut.count(axis) for axis in axes]


def _forms(outer: Variable, inner: Variable, other: Axis) -> list[Axes]:
    return [
        (Product((outer, inner)), other),
        (other, Product((outer, inner))),
        (Product((outer, other, inner)),),
        (Product((other, outer, inner)),),
        (outer, inner, other),
        (inner, outer),
        (inner, Product((other, outer))),
        (Product((inner, other)), outer),
    ]


def _expected(axes: Axes, outer: Variable, kept_outer: list[int], inner: Variable, rows: list[list[int]]) -> list[int]:
    """Numbers of the elements whose outer index is kept and whose inner index that outer index keeps."""
    labels = [elements(axis) for axis in axes]
    found = []
    for number, place in enumerate(np.ndindex(*[axis.size for axis in axes])):
        label = dict(pair for dim, at in enumerate(place) for pair in labels[dim][at])
        if label[outer] in kept_outer and label[inner] in rows[label[outer]]:
            found.append(number)
    return found
