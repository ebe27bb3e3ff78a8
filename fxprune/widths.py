"""Which widths a group may be cut to (alignment and floors), and which indices are kept at a width.

Without `align=`, widths are kept to what the hardware computes whole. On a CPU that is a vector of 8 numbers. On a GPU it is a
tile of a matrix product: cuBLAS and cuDNN give each block of threads 64, 128 or 256 outputs and go through the sum 32 or 64 at
a time, so that a width between two multiples of 64 takes about as long as the upper one, and one that is no multiple of 8 numbers
of 16 bits (16 bytes) is read piecemeal or padded. Fused attention is compiled for head dimensions in steps of 32. A narrow group
gets the largest power of two that leaves it some widths to choose from. Numbers of heads, of experts and of convolution groups
are no widths: they are free on either. Measured times say more than a rule: `fxprune.latency.steps`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

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
GPU_ALIGN = 64
"""What a matrix product on a GPU is tiled by."""
GPU_CHOICES = 2
"""Widths that a narrow group is left at least on a GPU: 64 channels go in steps of 32."""
ATTENTION_ALIGN = 32
"""What kernels of fused attention are compiled for on a GPU."""
DEFAULT_FLOOR = 0.05

FAST_NOTE = (
    "the model is on a GPU, so of plans that lose about as little search='knapsack' takes one that reads and writes less; "
    "align= with a number leaves that out"
)

_COUNTS = frozenset({"heads", "query heads per group", "key/value groups", "groups", "experts"})
"""Kinds of indices that stand for several features each."""
_ATTENTION = frozenset({"query/key dimensions", "value dimensions"})


@dataclass(frozen=True, slots=True)
class Range:
    """Widths that a group may be cut to: multiples of `step` from `floor` on, and its own size."""

    step: int
    floor: int

    def allows(self, size: int, widths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which widths a group of this size may be cut to."""
        allowed: NDArray[np.bool_] = (widths == size) | ((widths % self.step == 0) & (widths >= self.floor))
        return allowed


def width_ranges(
    analysis: Analysis, align: Align | None, floor: Floor | None, device: torch.device | None = None
) -> dict[str, Range]:
    """For each group its step and its floor.

    Args:
        analysis: the groups and their axes.
        align: the multiple that every axis made of groups is kept to, for all groups or by name or pattern; None (and
            groups that no pattern names) for `default_align`.
        floor: smallest number (int) or share (float) of indices to keep, for all groups or by name or pattern; None
            for 5 %.
        device: where the model is to run, which the default alignment follows; None for where its weights are.

    Raises:
        InputError: `align` or `floor` is out of range, or a pattern matches no group.
    """
    on_gpu = _on_gpu(analysis, device)
    steps = _steps(analysis, _wanted(analysis.groups, align, on_gpu=on_gpu))
    floors = _floors(analysis.groups, DEFAULT_FLOOR if floor is None else floor)
    return {
        group.name: Range(
            steps[group.variable], max(floors[group.name], group.least, min(steps[group.variable], group.size))
        )
        for group in analysis.groups
    }


def _on_gpu(analysis: Analysis, device: torch.device | None) -> bool:
    """Whether the model runs on CUDA: there, or where any of its weights is."""
    devices = (tensor.device for tensor in analysis.program.tensors.values()) if device is None else (device,)
    return any(each.type == "cuda" for each in devices)


def follows_gpu(analysis: Analysis, align: Align | None, device: torch.device | None = None) -> bool:
    """Whether widths follow what a GPU computes fast: the model is on one, and no one multiple is asked for."""
    return not isinstance(align, int) and _on_gpu(analysis, device)


def alignment_note(analysis: Analysis, align: Align | None, device: torch.device | None = None) -> tuple[str, ...]:
    """What the report says of the alignment: something where the default is another one than on a CPU."""
    if not follows_gpu(analysis, align, device):
        return ()
    return (
        f"the model is on a GPU, so widths are kept to multiples of {GPU_ALIGN}, which matrix products are tiled by "
        f"({ATTENTION_ALIGN} for dimensions of heads; less for groups of fewer than {GPU_ALIGN * GPU_CHOICES} indices); align= "
        "says otherwise",
        FAST_NOTE,
    )


def _wanted(groups: tuple[Group, ...], align: Align | None, *, on_gpu: bool) -> dict[str, int]:
    """The multiple that each group's axes are to be kept to."""
    given = align.values() if isinstance(align, Mapping) else () if align is None else (align,)
    for each in given:
        if isinstance(each, bool) or not isinstance(each, int) or each < 1:
            msg = f"align={each!r} is no positive whole number; pass, for example, align=8"
            raise InputError(msg)
    if not isinstance(align, Mapping):
        return {group.name: default_align(group, on_gpu=on_gpu) if align is None else align for group in groups}
    _check_patterns("align", align, groups)
    named = {
        group.name: [each for pattern, each in align.items() if fnmatch.fnmatchcase(group.name, pattern)]
        for group in groups
    }
    return {group.name: max(named[group.name], default=default_align(group, on_gpu=on_gpu)) for group in groups}


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


def default_align(group: Group, *, on_gpu: bool) -> int:
    """The multiple that a group is kept to where the user says none.

    8, or 64 on a GPU (32 for dimensions of heads), and less for groups too narrow for that; on a GPU 8 for all that have two
    multiples of it.
    """
    if not on_gpu or group.kind in _COUNTS or group.size < 2 * DEFAULT_ALIGN:
        return relaxed_align(group.size)
    tile, choices = (ATTENTION_ALIGN, 2) if group.kind in _ATTENTION else (GPU_ALIGN, GPU_CHOICES)
    return max(relaxed_align(group.size, tile, choices), DEFAULT_ALIGN)


def relaxed_align(size: int, align: int = DEFAULT_ALIGN, choices: int = 8) -> int:
    """`align`, or for groups too narrow for so many multiples of it the power of two that leaves them as many."""
    while align > 1 and size < choices * align:
        align //= 2
    return align


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
