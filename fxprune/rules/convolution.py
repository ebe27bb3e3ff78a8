"""Convolutions, plain and transposed, grouped and depthwise.

    y[n, (g, o), p] = sum_{c, k} x[n, (g, c), p + k] w[(g, o), c, k]

With G groups the input channels are g x c and the output channels g x o, with one group variable g for both. The
weight holds c on a dimension of its own, so that c may keep other indices in each group (nested choice). The axes
that the kernel slides over are pinned: also where one of them holds channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes, Axis, Product
from fxprune.rules.registry import Role, rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def _resize_convolution(resizing: Resizing) -> Arguments:
    """Groups that remain: input channels kept over input channels kept per group."""
    weight = resizing.operand(1)
    channels = resizing.operand(0)[-(len(weight) - 2) - 1]
    return _with_groups(resizing, channels, weight[1], position=6)


def _resize_transposed(resizing: Resizing) -> Arguments:
    """Groups that remain: output channels kept over output channels kept per group."""
    weight = resizing.operand(1)
    channels = resizing.result[-(len(weight) - 2) - 1]
    return _with_groups(resizing, channels, weight[1], position=6)


def _with_groups(resizing: Resizing, channels: Axis, per_group: Axis, position: int) -> Arguments:
    if channels.size == per_group.size:
        return resizing.args, resizing.kwargs
    return resizing.with_argument(position, "groups", resizing.kept(channels) // resizing.kept(per_group))


@rule(
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    role=Role.CONTRACTION,
    resize=_resize_convolution,
)
def convolution(
    trace: Trace,
    input: Axes,
    weight: Axes,
    bias: Axes | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Axes:
    """y[n, (g, o), p] = sum_{c, k} x[n, (g, c), p + k] w[(g, o), c, k] + b[(g, o)]."""
    if not isinstance(groups, int):  # as many as samples: the batch is folded into the channels
        operands = (input, weight) if bias is None else (input, weight, bias)
        trace.pin_all([axis for axes in operands for axis in axes], "convolution in a computed number of groups")
        return trace.fixed_axes(trace.shape, "convolution in a computed number of groups")
    spatial = len(weight) - 2
    channels = input[-spatial - 1]
    _pin_window(trace, input, weight, spatial)
    if groups == 1:
        trace.unify(channels, weight[1])
        trace.mix(channels)
        trace.label(weight[0], "channels")
    else:
        trace.mix(weight[1])
        _unify_groups(trace, channels, weight[0], groups, weight[1])
    if bias is not None:
        trace.unify(weight[0], bias[0])
    return _result(trace, input, spatial, weight[0])


@rule(
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    role=Role.CONTRACTION,
    resize=_resize_transposed,
)
def transposed_convolution(
    trace: Trace,
    input: Axes,
    weight: Axes,
    bias: Axes | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Axes:
    """y[n, (g, o), p] = sum_{c, k} x[n, (g, c), p - k] w[(g, c), o, k] + b[(g, o)]."""
    spatial = len(weight) - 2
    channels = input[-spatial - 1]
    _pin_window(trace, input, weight, spatial)
    trace.unify(channels, weight[0])
    outputs = weight[1]
    if groups == 1:
        trace.mix(channels)
        trace.label(weight[1], "channels")
    else:
        group = trace.fresh(groups)
        trace.label(group, "groups")
        inner = trace.fresh(channels.size // groups)
        trace.unify(weight[0], Product((group, inner)))
        trace.mix(inner)
        outputs = Product((group, weight[1]))
    if bias is not None:
        trace.unify(outputs, bias[0])
    return _result(trace, input, spatial, outputs)


def _unify_groups(trace: Trace, channels: Axis, outputs: Axis, groups: int, inner: Axis) -> None:
    group = trace.fresh(groups)
    trace.label(group, "channels" if inner.size == 1 else "groups")
    trace.unify(channels, Product((group, inner)) if inner.size > 1 else group)
    per_group = outputs.size // groups
    trace.unify(outputs, Product((group, trace.fresh(per_group))) if per_group > 1 else group)


def _pin_window(trace: Trace, input: Axes, weight: Axes, spatial: int) -> None:
    trace.pin_all(input[len(input) - spatial :], "slid over by a convolution")
    trace.pin_all(weight[2:], "kernel")


def _result(trace: Trace, input: Axes, spatial: int, channels: Axis) -> Axes:
    sizes: Sequence[int] = trace.shape[len(trace.shape) - spatial :]
    return (*input[: -spatial - 1], channels, *trace.fixed_axes(sizes, "position"))
