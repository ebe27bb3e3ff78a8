"""Normalisations. Statistics that run along a cut axis are taken over what is kept ("renormalised").

BatchNorm keeps a statistic per channel: element-wise here. LayerNorm and RMSNorm take theirs over the trailing axes,
GroupNorm over the channels within a group and all positions: with C = g x c, groups can go whole and c can shrink,
each keeping a multiple.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from fxprune.axes import Axes, Axis, Concat, Product, Variable
from fxprune.axes.expression import product
from fxprune.rules.registry import Role, rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace

aten = torch.ops.aten


@rule(aten.batch_norm.default, aten.instance_norm.default, role=Role.REDUCTION)
def batch_norm(trace: Trace, input: Axes, *statistics: Any, **_: Any) -> Axes:
    """y[n, c, p] = (x[n, c, p] - mean[c]) / std[c] * w[c] + b[c].

    The statistics are given, or taken from the input: over n and p (which weight standardisation uses with parameters
    for an input), for InstanceNorm over p alone.
    """
    if statistics[4]:
        trace.mix(*input[:1], *input[2:])
    for axes in statistics[:4]:
        if axes is not None:
            trace.unify(input[1], axes[0])
    return input


def _resize_normalized_shape(resizing: Resizing) -> Arguments:
    """`normalized_shape` follows the trailing axes."""
    given = resizing.args[1]
    axes = resizing.result[len(resizing.result) - len(given) :]
    return resizing.with_argument(
        1, "normalized_shape", [resizing.size(old, axis) for old, axis in zip(given, axes, strict=True)]
    )


@rule(
    aten.layer_norm.default,
    aten.rms_norm.default,
    role=Role.REDUCTION,
    resize=_resize_normalized_shape,
)
def layer_norm(
    trace: Trace,
    input: Axes,
    normalized_shape: Sequence[int],
    weight: Axes | None = None,
    bias: Any = None,
    *_: Any,
    **__: Any,
) -> Axes:
    """y[..., c] = (x[..., c] - mean_c x) / std_c x * w[c] + b[c], statistics over the kept c."""
    trailing = input[len(input) - len(normalized_shape) :]
    trace.mix(*trailing)
    for axes in (weight, bias):
        if isinstance(axes, tuple):
            for own, other in zip(trailing, axes, strict=True):
                trace.unify(own, other)
    return input


def _resize_group_norm(resizing: Resizing) -> Arguments:
    """Groups that remain: channels kept over channels kept per group."""
    channels = resizing.operand(0)[1]
    if not resizing.changed(channels):
        return resizing.args, resizing.kwargs
    per_group = inner_part(channels, channels.size // int(resizing.node.args[1]))  # type: ignore[arg-type]
    return resizing.with_argument(1, "num_groups", resizing.kept(channels) // resizing.kept(per_group))


def inner_part(axis: Axis, size: int) -> Axis:
    """The innermost factors of a settled axis that make up `size` together."""
    if axis.size == size:
        return axis
    if size == 1:
        return Variable(1)
    if isinstance(axis, Concat):
        return inner_part(axis.parts[0], size)
    assert isinstance(axis, Product), (axis, size)
    inner = list[Axis]()
    for factor in reversed(axis.factors):
        if prod(each.size for each in inner) == size:
            break
        inner.insert(0, factor)
    return product(inner)


@rule(aten.group_norm.default, role=Role.REDUCTION, resize=_resize_group_norm)
def group_norm(
    trace: Trace,
    input: Axes,
    num_groups: int,
    weight: Axes | None = None,
    bias: Axes | None = None,
    *_: Any,
    **__: Any,
) -> Axes:
    """y[n, (g, c), p] = (x - mean_{c,p} x) / std_{c,p} x * w[(g, c)] + b[(g, c)], statistics over the kept c."""
    for axes in (weight, bias):
        if axes is not None:
            trace.unify(input[1], axes[0])
    trace.mix(*input[2:])
    per_group = input[1].size // num_groups
    if num_groups == 1:
        trace.mix(input[1])
    if num_groups > 1 and per_group > 1:
        group = trace.fresh(num_groups)
        trace.label(group, "groups")
        inner = trace.fresh(per_group)
        trace.unify(input[1], Product((group, inner)))
        trace.mix(inner)
    return input


@rule(aten._weight_norm.default, role=Role.REDUCTION)
def weight_norm(trace: Trace, direction: Axes, magnitude: Axes, dim: int = 0) -> Axes:
    """W = v * g / ||v||, the norm over all axes but `dim`, taken over what is kept of them."""
    if direction[dim].size == magnitude[dim].size:
        trace.unify(direction[dim], magnitude[dim])
    trace.mix(*(axis for at, axis in enumerate(direction) if at != dim % len(direction)))
    return direction
