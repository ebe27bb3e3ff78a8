"""Operations that make tensors: filled ones are free along every axis, counted ones (arange) are pinned.

Only those whose sizes are symbolic are still in the graph; the others have been folded into constants.
"""

from __future__ import annotations

from typing import Any

import torch

from fxprune.axes import Axes, Variable
from fxprune.rules.registry import rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def _resize_by(position: int) -> Any:
    def resize(resizing: Resizing) -> Arguments:
        given = resizing.args[position]
        sizes = [resizing.size(size, axis) for size, axis in zip(given, resizing.result, strict=True)]
        return resizing.with_argument(position, "size", sizes)

    return resize


def _filled(trace: Trace) -> Axes:
    """Every axis is free: all its indices hold the same."""
    return tuple(Variable(size) for size in trace.shape)


@rule(
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.empty.memory_format,
    aten.rand.default,
    aten.randn.default,
    resize=_resize_by(0),
)
def filled(trace: Trace, *_: Any, **__: Any) -> Axes:
    """A tensor of given sizes whose indices are all alike."""
    return _filled(trace)


@rule(
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
    resize=_resize_by(1),
)
def filled_like(trace: Trace, *_: Any, **__: Any) -> Axes:
    """A tensor of given sizes, of another's type, whose indices are all alike."""
    return _filled(trace)


@rule(
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.linspace.default,
    aten.eye.default,
    aten.eye.m,
    aten.scalar_tensor.default,
    aten.tril_indices.default,
    aten.triu_indices.default,
)
def counted(trace: Trace, *_: Any, **__: Any) -> Axes:
    """A tensor whose values name its indices: pinned."""
    return trace.fixed_axes(trace.shape, "counted positions")


@rule(aten.tril.default, aten.triu.default, aten.tril_.default, aten.triu_.default)
def triangle(trace: Trace, input: Axes, *_: Any) -> Axes:
    """A triangle of a matrix: which elements it holds depends on both indices, so both are pinned."""
    trace.pin_all(input[-2:], "triangle of it")
    return input
