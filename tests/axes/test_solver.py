from __future__ import annotations

import itertools

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fxprune.axes import Axis, Concat, Pin, Product, Solver, Variable, leaves, settle
from tests.axes.elements import Element, copy, elements, free_variables, positions
from tests.axes.expressions import SIZES, Maker, truths, view

DATA = st.data()
MANY = settings(max_examples=200, deadline=None)
SOME = settings(max_examples=80, deadline=None)
LARGEST = 600
"""Elements of an expression that are still written out one by one."""


def draw_equations(data: st.DataObject, *, repeat: bool = True) -> list[tuple[Axis, Axis]]:
    maker = Maker(data, repeat=repeat)
    sizes = data.draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))
    return [(maker.expression(size), maker.expression(size)) for size in sizes]


def solve(equations: list[tuple[Axis, Axis]]) -> Solver:
    solver = Solver()
    for left, right in equations:
        solver.unify(left, right)
    return solver


@given(DATA)
@MANY
def test_both_sides_have_the_same_elements(data: st.DataObject) -> None:
    equations = draw_equations(data)
    solve(equations)
    for left, right in equations:
        assert elements(left) == elements(right)


@given(DATA)
@SOME
def test_both_sides_keep_the_same_positions_under_any_cut(data: st.DataObject) -> None:
    equations = draw_equations(data)
    solve(equations)
    free = free_variables(axis for pair in equations for axis in pair)
    kept = {variable: data.draw(st.sets(st.integers(0, variable.size - 1), min_size=1)) for variable in free}
    cut = {variable: sorted(indices) for variable, indices in kept.items()}
    for left, right in equations:
        assert positions(left, cut) == positions(right, cut)


@given(DATA)
@SOME
def test_settling_changes_no_element(data: st.DataObject) -> None:
    equations = draw_equations(data)
    solve(equations)
    for axis in itertools.chain(*equations):
        settled = settle(axis)
        assert elements(settled) == elements(axis)
        assert all(leaf.bound is None for leaf in leaves(settled))
        assert is_flat(settled)


def is_flat(axis: Axis) -> bool:
    """No product directly in a product, no concatenation directly in a concatenation, no wrapper around one thing."""
    if isinstance(axis, Variable):
        return True
    children = axis.factors if isinstance(axis, Product) else axis.parts
    return len(children) > 1 and all(type(child) is not type(axis) and is_flat(child) for child in children)


@st.composite
def unrelated(draw: st.DrawFn) -> tuple[Axis, Axis]:
    """Two expressions of one size; no variable occurs twice."""
    maker, size = Maker(draw(st.data()), repeat=False), draw(st.sampled_from(SIZES))
    return maker.expression(size), maker.expression(size)


CUT_BOTH_WAYS = (
    Concat((Product((Variable(2), Variable(2))), Variable(1))),
    Concat((Variable(2), Variable(1), Variable(2))),
)
"""The outer 2 is cut first, then the inner one: [(1 + 1) x (1 + 1) + 1] = [1 + 1 + 1 + 1 + 1]."""
IN_CONFLICT = (
    Product((Concat((Variable(1), Variable(3), Variable(3))), Variable(2))),
    Concat((Product((Variable(3), Variable(4))), Variable(1), Variable(1))),
)
"""1 + 3 + 3 cannot be matched with 3 x 2 + 1, whose 1 is made anew each time."""


@given(unrelated())
@example(CUT_BOTH_WAYS)
@example(IN_CONFLICT)
@settings(SOME, suppress_health_check=[HealthCheck.too_slow])
def test_demanding_the_same_again_changes_nothing(sides: tuple[Axis, Axis]) -> None:
    """Where no variable meets itself within one expression; such a diagonal may be pinned further, never less."""
    left, right = (copy(side, {}) for side in sides)
    solver = Solver()
    solver.unify(left, right)
    conflicts, before = len(solver.conflicts), elements(left)
    solver.unify(left, right)
    solver.unify(right, left)
    assert len(solver.conflicts) == conflicts
    assert elements(left) == before


@given(DATA)
@SOME
def test_demanding_again_keeps_both_sides_equal(data: st.DataObject) -> None:
    equations = draw_equations(data)
    solver = solve(equations)
    for left, right in equations:
        solver.unify(right, left)
    for left, right in equations:
        assert elements(left) == elements(right)


@given(DATA)
@SOME
def test_the_order_of_the_sides_does_not_matter(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    maker = Maker(data, repeat=False)
    left, right = maker.expression(size), maker.expression(size)
    known: dict[Variable, Variable] = {}
    other_left, other_right = copy(left, known), copy(right, known)
    one, other = Solver(), Solver()
    one.unify(left, right)
    other.unify(other_right, other_left)
    assert bool(one.conflicts) == bool(other.conflicts)
    assert same_but_for_names(elements(left), elements(other_left))


def same_but_for_names(left: list[Element], right: list[Element]) -> bool:
    """Whether a one-to-one renaming of variables takes one list of elements to the other."""
    there: dict[Variable, Variable] = {}
    back: dict[Variable, Variable] = {}
    for one, other in zip(left, right, strict=True):
        if len(one) != len(other):
            return False
        for (a, i), (b, j) in zip(one, other, strict=True):
            if i != j or there.setdefault(a, b) is not b or back.setdefault(b, a) is not a:
                return False
    return True


@given(DATA)
@MANY
def test_views_of_one_axis_are_matched_and_nothing_is_lost(data: st.DataObject) -> None:
    """Completeness: whatever each of three operations knows of an axis, together they know no less than the truth."""
    truth = data.draw(truths().filter(lambda axis: axis.size <= LARGEST))
    before = elements(truth)
    first, second, third = (view(data, truth) for _ in range(3))
    solver = Solver()
    for left, right in ((first, second), (second, third), (third, truth)):
        solver.unify(left, right)
    assert not solver.conflicts
    assert elements(first) == elements(second) == elements(third) == elements(truth)
    assert len(set(elements(truth))) == len(set(before)), "indices that were independent have been tied together"


@given(DATA)
@SOME
def test_pins_spread_to_everything_that_is_equal(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    maker = Maker(data, pins=False)
    left, right = maker.expression(size), maker.expression(size)
    solver = Solver()
    if data.draw(st.booleans()):
        solver.pin(left, "before")
        solver.unify(left, right)
    else:
        solver.unify(left, right)
        solver.pin(left, "after")
    assert not free_variables([left, right])


@given(DATA)
@SOME
def test_a_variable_takes_any_structure(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    axis, variable = Maker(data).expression(size), Variable(size)
    before = elements(axis)
    solver = Solver()
    solver.unify(*data.draw(st.permutations([axis, variable])))
    assert not solver.conflicts
    assert elements(variable) == elements(axis)
    assert same_but_for_names(elements(axis), before)


@given(DATA)
@SOME
def test_a_conflict_pins_both_sides(data: st.DataObject) -> None:
    """9 x 4 and 4 x 9 have no common refinement; what stands left of them is matched or pinned with them."""
    outer = data.draw(st.sampled_from([1, 2, 3]))
    left = Product((Variable(outer), Variable(9), Variable(4)))
    right = Product((Variable(outer), Variable(4), Variable(9)))
    solver = Solver()
    solver.unify(left, right)
    assert len(solver.conflicts) == 1
    assert not free_variables([left, right])
    assert {leaf.pin.reason for leaf in leaves(left) if leaf.pin and leaf.size > 1} == {
        f"{'' if outer == 1 else f'{outer} x '}9 x 4 cannot be matched with {'' if outer == 1 else f'{outer} x '}4 x 9"
    }


@given(DATA)
@SOME
def test_factoring_finds_what_a_product_is_made_of(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    axis = Maker(data).expression(size)
    inner = data.draw(st.sampled_from([each for each in range(1, size + 1) if size % each == 0]))
    pair = Solver().factor(axis, inner)
    if pair is not None:
        assert pair[1].size == inner
        assert elements(Product(pair)) == elements(axis)


@given(DATA)
@SOME
def test_splitting_finds_consecutive_parts(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    axis = Maker(data).expression(size)
    at = data.draw(st.integers(0, size))
    pair = Solver().split(axis, at)
    if pair is not None:
        assert pair[0].size == at
        assert elements(pair[0]) + elements(pair[1]) == elements(axis)


def test_a_larger_factor_is_split_by_a_smaller() -> None:
    features, heads, dims = Variable(768), Variable(12), Variable(64)
    outer, inner = Variable(3), Variable(256)
    solver = Solver()
    solver.unify(features, Product((heads, dims)))
    solver.unify(features, Product((outer, inner)))
    assert not solver.conflicts
    assert [leaf.size for leaf in leaves(settle(features))] == [3, 4, 64]


def test_concatenations_are_cut_at_the_union_of_their_boundaries() -> None:
    left, right = Concat((Variable(4), Variable(6))), Concat((Variable(7), Variable(3)))
    solver = Solver()
    solver.unify(left, right)
    assert not solver.conflicts
    assert [leaf.size for leaf in leaves(settle(left))] == [4, 3, 3]
    assert elements(left) == elements(right)


def test_a_concatenation_is_distributed_over_the_outermost_factor() -> None:
    left, right = Concat((Variable(6), Variable(9))), Product((Variable(5), Variable(3)))
    solver = Solver()
    solver.unify(left, right)
    assert not solver.conflicts
    assert [leaf.size for leaf in leaves(settle(right))] == [2, 3, 3]
    assert elements(left) == elements(right)


def test_a_conflict_names_the_operation_and_the_sizes() -> None:
    solver = Solver()
    solver.unify(Concat((Variable(5), Variable(7))), Product((Variable(4), Variable(3))))
    (conflict,) = solver.conflicts
    assert (conflict.left, conflict.right) == ("5 + 7", "4 x 3")


def test_the_first_pin_stays() -> None:
    first, second = Variable(8, Pin("first")), Variable(8, Pin("second"))
    solver = Solver()
    solver.unify(Variable(8), first)
    solver.unify(second, first)
    assert first.pin == Pin("first")


def test_a_unit_part_is_factored_with_the_others() -> None:
    inner = Concat((Variable(2), Variable(6)))
    left = Concat((Product((Variable(1), inner)), Product((Variable(3), inner))))
    right = Product((Concat((Variable(1), Variable(3))), inner))
    solver = Solver()
    solver.unify(left, right)
    assert not solver.conflicts


def test_an_empty_part_binds_no_variable_to_itself() -> None:
    variable = Variable(4)
    Solver().unify(variable, Concat((variable, Variable(0))))
    assert [leaf.size for leaf in leaves(variable)] == [4]
