"""Which widths a group may be cut to (alignment and floors), and which indices are kept at a width."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fxprune.analysis import Analysis
from fxprune.axes import Axis, Product, Variable, leaves
from fxprune.errors import InputError
from fxprune.groups import Group
from fxprune.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floor: TypeAlias = float | int | Mapping[str, float | int]
Align: TypeAlias = int | Mapping[str, int]

DEFAULT_ALIGN = 8
DEFAULT_FLOOR = 0.05


@dataclass(frozen=True, slots=True)
class Range:
    """Widths that a group may be cut to: multiples of `step` from `floor` on, and its own size."""

    step: int
    floor: int

    def allows(self, size: int, widths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which widths a group of this size may be cut to."""
        allowed: NDArray[np.bool_] = (widths == size) | ((widths % self.step == 0) & (widths >= self.floor))
        return allowed


def width_ranges(analysis: Analysis, align: Align | None, floor: Floor | None) -> dict[str, Range]:
    """For each group its step and its floor.

    Args:
        analysis: the groups and their axes.
        align: the multiple that every axis made of groups is kept to, for all groups or by name or pattern; None (and
            groups that no pattern names) for 8, less for groups too narrow for that.
        floor: smallest number (int) or share (float) of indices to keep, for all groups or by name or pattern; None
            for 5 %.

    Raises:
        InputError: `align` or `floor` is out of range, or a pattern matches no group.
    """
    steps = _steps(analysis, _wanted(analysis.groups, align))
    floors = _floors(analysis.groups, DEFAULT_FLOOR if floor is None else floor)
    return {
        group.name: Range(steps[group.variable], max(floors[group.name], min(steps[group.variable], group.size)))
        for group in analysis.groups
    }


def _wanted(groups: tuple[Group, ...], align: Align | None) -> dict[str, int]:
    """The multiple that each group's axes are to be kept to."""
    given = align.values() if isinstance(align, Mapping) else () if align is None else (align,)
    for each in given:
        if isinstance(each, bool) or not isinstance(each, int) or each < 1:
            msg = f"align={each!r} is no positive whole number; pass, for example, align=8"
            raise InputError(msg)
    if not isinstance(align, Mapping):
        return {group.name: relaxed_align(group.size) if align is None else align for group in groups}
    _check_patterns("align", align, groups)
    named = {
        group.name: [each for pattern, each in align.items() if fnmatch.fnmatchcase(group.name, pattern)]
        for group in groups
    }
    return {group.name: max(named[group.name], default=relaxed_align(group.size)) for group in groups}


def _check_patterns(argument: str, patterns: Mapping[str, float], groups: tuple[Group, ...]) -> None:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(group.name, pattern) for group in groups):
            known = [group.name for group in groups[:5]]
            msg = f"{argument}={{{pattern!r}: ...}} matches no group; groups are, for example, {known}"
            raise InputError(msg)


def _steps(analysis: Analysis, wanted_by_name: Mapping[str, int]) -> dict[Variable, int]:
    """Step of each group such that every axis that it is a factor of stays a multiple of the alignment.

    Wide groups come first; what they guarantee to a product, its other factors need not.
    """
    steps: dict[Variable, int] = {}
    for group in sorted(analysis.groups, key=lambda each: -each.size):
        wanted = wanted_by_name[group.name]
        guaranteed = [
            _divisor(axis, group.variable, steps)
            for member in group.members
            if (axis := analysis.propagation.tensors[member.name][member.dim]).size > 1
        ]
        others = min(guaranteed, default=1)
        steps[group.variable] = max(wanted // gcd(wanted, others), 1)
    return steps


def relaxed_align(size: int) -> int:
    """8, or for groups of less than 64 indices the power of two that leaves them at least 8 widths to choose from."""
    step = DEFAULT_ALIGN
    while step > 1 and size < 8 * step:
        step //= 2
    return step


def _divisor(axis: Axis, variable: Variable, steps: Mapping[Variable, int]) -> int:
    """What the other factors beside `variable` are certain to contribute to the size of the axis, whatever is cut."""
    if not isinstance(axis, Product):
        parts = [] if isinstance(axis, Variable) else [part for part in axis.parts if variable in leaves(part)]
        return min((_divisor(part, variable, steps) for part in parts), default=1)
    divisor = 1
    for factor in axis.factors:
        if variable in leaves(factor):
            divisor *= _divisor(factor, variable, steps)
        elif isinstance(factor, Variable):
            divisor *= factor.size if factor.pin else steps.get(factor, 1)
    return divisor


def _floors(groups: tuple[Group, ...], floor: Floor) -> dict[str, int]:
    if not isinstance(floor, Mapping):
        return {group.name: _floor(group, floor) for group in groups}
    _check_patterns("floor", floor, groups)
    return {
        group.name: max(
            (_floor(group, value) for pattern, value in floor.items() if fnmatch.fnmatchcase(group.name, pattern)),
            default=_floor(group, DEFAULT_FLOOR),
        )
        for group in groups
    }


def _floor(group: Group, floor: float) -> int:
    valid = not isinstance(floor, bool) and (
        (isinstance(floor, int) and floor >= 1) or (isinstance(floor, float) and 0 <= floor <= 1)
    )
    if not valid:
        msg = f"floor={floor!r}: pass a share between 0.0 and 1.0, or a number of indices from 1 on"
        raise InputError(msg)
    count = floor if isinstance(floor, int) else ceil(floor * group.size)
    return min(max(int(count), 1), group.size)


def keep_most_important(
    groups: tuple[Group, ...], scores: Scores, widths: Mapping[str, int]
) -> dict[str, NDArray[np.int64]]:
    """Sorted kept indices of every group that loses some: the most important ones, the first of equals.

    Returns:
        Group name -> int64 [width], or [outer size, width] for a nested group.
    """
    return {
        group.name: largest(scores.importance[group.name], widths[group.name])
        for group in groups
        if widths[group.name] < group.size
    }


def largest(importance: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Sorted positions of the `count` largest along the last axis, the first of equals."""
    order = np.argsort(-importance, axis=-1, kind="stable")[..., :count]
    return np.sort(order, axis=-1).astype(np.int64)
