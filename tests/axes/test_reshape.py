from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.axes import Axis, Solver, Variable, settle
from fxprune.cut import Cut
from fxprune.rules import Trace
from tests.axes.elements import free_variables, kept_elements
from tests.axes.expressions import Maker, factorisations

ELEMENTS = (6, 8, 12, 24, 36, 48, 60, 64, 96)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_reshape_keeps_exactly_the_elements_that_its_source_keeps(data: st.DataObject) -> None:
    """Row by row: number the elements, cut them before the reshape, and after it; the same numbers remain."""
    count = data.draw(st.sampled_from(ELEMENTS))
    shapes = data.draw(st.lists(factorisations(count), min_size=2, max_size=4))
    maker = Maker(data)
    forms: list[tuple[Axis, ...]] = [tuple(maker.expression(size, depth=2) for size in shapes[0])]
    trace = Trace(Solver())
    for shape in shapes[1:]:
        forms.append(trace.reshape(forms[-1], shape))
        assert [axis.size for axis in forms[-1]] == shape
    free = free_variables(itertools.chain(*forms))
    kept = {each: sorted(data.draw(st.sets(st.integers(0, each.size - 1), min_size=1))) for each in free}
    expected = kept_elements(forms[0], kept)
    cut = Cut({each: np.array(indices) for each, indices in kept.items() if len(indices) < each.size}, {})
    for axes in forms:
        assert kept_elements(axes, kept) == expected
        assert sliced(cut, axes) == expected


def sliced(cut: Cut, axes: tuple[Axis, ...]) -> list[int]:
    """What the package itself cuts out of the numbered elements."""
    shape = [axis.size for axis in axes]
    remains = cut.slice(torch.arange(prod(shape)).reshape(shape), tuple(map(settle, axes)))
    return [int(each) for each in remains.flatten()]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((768,), (12, 64)),
        ((2, 3, 768), (2, 3, 12, 64)),
        ((2, 12, 64), (2, 768)),
        ((4, 6), (2, 12)),
        ((1, 8, 1), (8,)),
        ((8,), (1, 2, 1, 4)),
        ((30,), (2, 3, 5)),
    ],
)
def test_free_axes_stay_free_where_running_sizes_meet(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    solver = Solver()
    axes = tuple(Variable(size) for size in source)
    result = Trace(solver).reshape(axes, target)
    assert not solver.conflicts
    assert [axis.size for axis in result] == list(target)
    assert kept_elements(axes, {}) == kept_elements(result, {})
    assert all(variable.pin is None for variable in free_variables(axes))


def test_dimensions_that_pass_are_the_same_axis() -> None:
    first, second = Variable(5), Variable(12)
    result = Trace(Solver()).reshape((first, second), (5, 3, 4))
    assert result[0] is first


def test_there_and_back_ties_nothing_together() -> None:
    axes = (Variable(4), Variable(9))
    trace = Trace(Solver())
    trace.reshape(trace.reshape(axes, (36,)), (4, 9))
    assert len(free_variables(axes)) == 2


def test_what_does_not_divide_is_pinned() -> None:
    solver = Solver()
    axes = (Variable(4), Variable(9))
    Trace(solver).reshape(axes, (9, 4))
    assert len(solver.conflicts) == 1
    assert not free_variables(axes)
