"""Cuts against brute force: counts, grids, masks and slices of random expressions, nested choices among them."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.axes import Axes, Axis, Concat, Product, Variable
from fxprune.cut import Cut
from fxprune.groups import Group
from fxprune.indexing import index_of, sum_by_index
from tests.axes.elements import elements, free_variables, kept_elements, positions
from tests.axes.expressions import Maker

SIZES = (1, 2, 3, 4, 6, 8, 12)


def draw_axes(data: st.DataObject, rank: int) -> tuple[Axes, Cut, dict[Variable, list[int]]]:
    """A tensor's axes, over variables that may be shared between them, and what is kept of each."""
    maker = Maker(data, pins=False)
    axes = tuple(maker.expression(data.draw(st.sampled_from(SIZES)), depth=2) for _ in range(rank))
    kept: dict[Variable, list[int]] = {}
    for variable in free_variables(axes):
        if data.draw(st.booleans()):
            kept[variable] = sorted(data.draw(st.sets(st.integers(0, variable.size - 1), min_size=1)))
    kept = {variable: own for variable, own in kept.items() if len(own) < variable.size}
    return axes, Cut({variable: np.array(own) for variable, own in kept.items()}, {}), kept


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_plain_choices(data: st.DataObject) -> None:
    axes, cut, kept = draw_axes(data, data.draw(st.integers(1, 3)))
    if any(_repeats(axis) for axis in axes):
        return
    assert [cut.count(axis) for axis in axes] == [len(positions(axis, kept)) for axis in axes]
    assert cut.touches(axes) == any(len(positions(axis, kept)) < axis.size for axis in axes)
    for axis, grid in zip(axes, cut.grid(axes), strict=True):
        expected = positions(axis, kept)
        assert expected == list(range(axis.size)) if grid is None else grid.tolist() == expected
    shape = [axis.size for axis in axes]
    numbers = torch.arange(prod(shape)).reshape(shape)
    sliced = cut.slice(numbers, axes)
    assert sliced.flatten().tolist() == kept_elements(axes, kept)
    mask = cut.mask(axes)
    if mask is None:
        assert sliced is numbers
    else:
        assert numbers[mask.expand(shape)].tolist() == sliced.flatten().tolist()
        assert all(size in (1, axis.size) for size, axis in zip(mask.shape, axes, strict=True))


def _repeats(axis: Axis) -> bool:
    """Whether a product holds a variable twice, which no tensor's axis does."""
    if isinstance(axis, Variable):
        return False
    if isinstance(axis, Concat):
        return any(_repeats(part) for part in axis.parts)
    found = [variable for factor in axis.factors for variable in free_variables([factor])]
    return len(found) != len(set(found)) or any(_repeats(factor) for factor in axis.factors)


def nested(rows: int, size: int, keep: int, outer_kept: list[int] | None = None) -> tuple[Variable, Variable, Cut]:
    """Outer and inner variable, and a cut that keeps other inner indices for each outer one."""
    generator = np.random.default_rng(rows * 100 + size * 10 + keep)
    table = np.stack([np.sort(generator.permutation(size)[:keep]) for _ in range(rows)])
    outer, inner = Variable(rows), Variable(size)
    kept = {inner: table} if outer_kept is None else {inner: table, outer: np.array(outer_kept)}
    return outer, inner, Cut(kept, {inner: outer})


def test_a_nested_choice_within_a_product() -> None:
    outer, inner, cut = nested(4, 6, 2, [0, 2, 3])
    axes = (Product((outer, inner)), Variable(3))
    expected = [row * 6 + int(column) for row in (0, 2, 3) for column in cut.kept[inner][row]]
    (found, rest) = cut.grid(axes)
    assert found is not None
    assert (found.tolist(), rest) == (expected, None)
    assert cut.count(axes[0]) == 6
    assert cut.dimension_of_outer(axes, 0) is None


def test_a_nested_choice_along_another_dimension() -> None:
    """A grouped convolution's weight [groups x out, in, 3, 3]: inputs differ from group to group."""
    outer, inner, cut = nested(4, 6, 2, [1, 3])
    out = Variable(5)
    axes = (Product((outer, out)), inner, Variable(3))
    assert cut.dimension_of_outer(axes, 1) == 0
    assert cut.rows_per_outer(axes, 1).tolist() == cut.kept[inner][[1, 3]].tolist()
    weight = torch.arange(4 * 5 * 6 * 3).reshape(20, 6, 3)
    expected = torch.stack([weight[g * 5 + o][cut.kept[inner][g].tolist()] for g in (1, 3) for o in range(5)])
    assert torch.equal(cut.slice(weight, axes), expected)
    mask = cut.mask(axes)
    assert mask is not None
    assert mask.shape == (20, 6, 1)
    assert torch.equal(weight[mask.expand(20, 6, 3)], expected.flatten())


def test_a_nested_choice_with_the_outer_dimension_after_it() -> None:
    outer, inner, cut = nested(3, 5, 2)
    axes = (inner, Product((outer, Variable(2))))
    weight = torch.arange(5 * 6).reshape(5, 6)
    found = cut.slice(weight, axes)
    expected = torch.stack([weight[cut.kept[inner][column // 2].tolist(), column] for column in range(6)], dim=1)
    assert torch.equal(found, expected)


def test_nested_choices_under_concatenations() -> None:
    """A fused query, key and value: three times heads x dimensions."""
    outer, inner, cut = nested(4, 8, 3, [0, 1, 3])
    part = Product((outer, inner))
    axes = (Concat((part, part, part)), Variable(5))
    weight = torch.arange(96 * 5).reshape(96, 5)
    one = [row * 8 + int(column) for row in (0, 1, 3) for column in cut.kept[inner][row]]
    assert torch.equal(cut.slice(weight, axes), weight[[at + 32 * third for third in range(3) for at in one]])


def test_two_nested_choices_in_one_tensor() -> None:
    """The output projection of an attention whose values are nested under its heads, and features elsewhere."""
    outer, inner, cut = nested(4, 8, 3)
    features = Variable(6)
    cut = Cut({**cut.kept, features: np.array([1, 5])}, cut.outer)
    weight = torch.arange(6 * 32).reshape(6, 32)
    columns = [row * 8 + int(column) for row in range(4) for column in cut.kept[inner][row]]
    axes = (features, Product((outer, inner)))
    assert torch.equal(cut.slice(weight, axes), weight[[1, 5]][:, columns])


def test_what_loses_nothing_is_the_same_object() -> None:
    _, _, cut = nested(4, 8, 3)
    tensor = torch.ones(3, 4)
    assert cut.slice(tensor, (Variable(3), Variable(4))) is tensor
    assert cut.mask((Variable(3), Variable(4))) is None
    assert not cut.touches((Variable(3), Variable(4)))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_sums_by_index(data: st.DataObject) -> None:
    """Energies of a group by brute force, however the group's axis is made."""
    axes, _, _ = draw_axes(data, data.draw(st.integers(1, 3)))
    variables = free_variables(axes)
    if not variables or any(_repeats(axis) for axis in axes):
        return
    variable = data.draw(st.sampled_from(variables))
    group = Group("g", "features", variable.size, variable, (), None, 1)
    shape = [axis.size for axis in axes]
    values = torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(0)).double()
    labels = [[dict(element).get(variable) for element in elements(axis)] for axis in axes]
    expected = [0.0] * variable.size
    for place in np.ndindex(*shape):
        for dim, at in enumerate(place):
            index = labels[dim][at]
            if index is not None:
                expected[index] += float(values[place])
    assert sum_by_index(values, axes, group).tolist() == expected
    for axis, own in zip(axes, labels, strict=True):
        assert index_of(axis, variable).tolist() == [-1 if index is None else index for index in own]


def test_sums_by_index_of_a_nested_group() -> None:
    outer, inner = Variable(3), Variable(4)
    group = Group("g", "features", 4, inner, (), outer, 1)
    values = torch.arange(3 * 4 * 5).reshape(12, 5).double()
    expected = values.reshape(3, 4, 5).sum(2)
    assert torch.equal(sum_by_index(values, (Product((outer, inner)), Variable(5)), group), expected)
    weight = torch.arange(6 * 4 * 2).reshape(6, 4, 2).double()
    by_group = weight.reshape(3, 2, 4, 2).sum((1, 3))
    assert torch.equal(sum_by_index(weight, (Product((outer, Variable(2))), inner, Variable(2)), group), by_group)
    assert torch.equal(
        sum_by_index(weight.transpose(0, 1), (inner, Product((outer, Variable(2))), Variable(2)), group), by_group
    )
