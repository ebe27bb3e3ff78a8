"""What the time of a piece of a graph depends on: the sizes of a few independent axes.

The axes of its tensors are expressions over groups. An expression that occurs only whole counts as one size (the 480
concatenated channels that a convolution reads); where its parts occur by themselves too (heads and head dimensions beside
their product), the parts are what counts. So the *basis* is the set of expressions from which all axes can be computed and no
two of which share a group: start with the axes themselves, and take apart whatever shares a group with another one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxprune.axes import Axis, Product, Variable, leaves
from fxprune.groups import Group

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


def basis_of(axes: Iterable[Axis], groups: Mapping[Variable, int]) -> tuple[Axis, ...]:
    """Independent expressions, in the order of their first occurrence, of those axes that hold groups."""
    found: dict[Hashable, Axis] = {}
    for axis in axes:
        if any(leaf in groups for leaf in leaves(axis)):
            found.setdefault(key_of(axis), axis)
    while shared := _shared(found, groups):
        found = _taken_apart(found, shared, groups)
    return tuple(found.values())


def columns_of(groups: Iterable[Group]) -> dict[Variable, int]:
    """Position of each group's variable: its column in widths `[candidates, groups]`."""
    return {group.variable: at for at, group in enumerate(groups)}


def key_of(axis: Axis) -> Hashable:
    """Equal for expressions that say the same of the same variables."""
    if isinstance(axis, Variable):
        return axis
    children = axis.factors if isinstance(axis, Product) else axis.parts
    return (type(axis).__name__, *(key_of(child) for child in children))


def _shared(found: Mapping[Hashable, Axis], groups: Mapping[Variable, int]) -> set[Hashable]:
    """Keys of composite expressions that have a group in common with another one."""
    holders: dict[Variable, set[Hashable]] = {}
    for key, axis in found.items():
        for leaf in leaves(axis):
            if leaf in groups:
                holders.setdefault(leaf, set()).add(key)
    several = [keys for keys in holders.values() if len(keys) > 1]
    return {key for keys in several for key in keys if not isinstance(found[key], Variable)}


def _taken_apart(
    found: Mapping[Hashable, Axis], shared: set[Hashable], groups: Mapping[Variable, int]
) -> dict[Hashable, Axis]:
    result: dict[Hashable, Axis] = {}
    for key, axis in found.items():
        if key not in shared or isinstance(axis, Variable):
            result.setdefault(key, axis)
            continue
        for child in axis.factors if isinstance(axis, Product) else axis.parts:
            if any(leaf in groups for leaf in leaves(child)):
                result.setdefault(key_of(child), child)
    return result


def sizes_at(axis: Axis, groups: Mapping[Variable, int], widths: Ints) -> Floats:
    """Sizes of an expression, `[candidates]`, at widths `[candidates, groups]`; `groups` says each one's column."""
    if isinstance(axis, Variable):
        return widths[:, groups[axis]].astype(np.float64) if axis in groups else np.full(len(widths), float(axis.size))
    sizes = [sizes_at(child, groups, widths) for child in (axis.factors if isinstance(axis, Product) else axis.parts)]
    return np.asarray(prod(sizes[1:], start=sizes[0]) if isinstance(axis, Product) else np.sum(sizes, axis=0))
