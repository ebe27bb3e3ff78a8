"""Operations that write at given positions, windows that overlap, and complex numbers as pairs.

An axis that is written to by position is pinned; the others hold the same indices as those of what is written.
"""

from __future__ import annotations

from typing import Any

import torch

from fxprune.axes import Axes
from fxprune.rules.registry import rule
from fxprune.rules.trace import Trace

aten = torch.ops.aten


@rule(
    aten.scatter.src,
    aten.scatter.value,
    aten.scatter.reduce,
    aten.scatter_.src,
    aten.scatter_.value,
    aten.scatter_add.default,
    aten.scatter_add_.default,
    aten.scatter_reduce.two,
)
def scatter(trace: Trace, input: Axes, dim: int, index: Axes, source: Any = None, *_: Any, **__: Any) -> Axes:
    """y[index[i, j], j] = source[i, j]: `dim` is pinned."""
    written = [index, source] if isinstance(source, tuple) else [index]
    trace.pin(input[dim], "written at positions")
    for other in written:
        trace.pin(other[dim], "written at positions")
        for at, (own, axis) in enumerate(zip(input, other, strict=True)):
            if at == dim % len(input):
                continue
            if own.size == axis.size:
                trace.unify(own, axis)
            else:
                trace.pin_all((own, axis), "written along a longer axis")
    return input


@rule(aten.index_add.default, aten.index_add_.default, aten.index_copy.default, aten.index_copy_.default)
def index_add(trace: Trace, input: Axes, dim: int, index: Axes, source: Axes, **_: Any) -> Axes:
    """y[.., index[i], ..] = x[.., index[i], ..] + source[.., i, ..]: `dim` is pinned, the others hold the same indices."""
    trace.pin_all((input[dim], source[dim], *index), "written at positions")
    for at, (own, other) in enumerate(zip(input, source, strict=True)):
        if at != dim % len(input):
            trace.unify(own, other)
    return input


@rule(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def index_fill(trace: Trace, input: Axes, dim: int, *_: Any) -> Axes:
    """y[.., index[i], ..] = value: `dim` is pinned."""
    trace.pin(input[dim], "written at positions")
    return input


@rule(aten.slice_scatter.default)
def slice_scatter(trace: Trace, input: Axes, source: Axes, dim: int = 0, *_: Any, **__: Any) -> Axes:
    """y[.., start:end, ..] = source: `dim` is pinned, the others hold the same indices."""
    trace.pin_all((input[dim], source[dim]), "written at positions")
    for at, (own, other) in enumerate(zip(input, source, strict=True)):
        if at != dim % len(input):
            trace.unify(own, other)
    return input


@rule(aten.select_scatter.default)
def select_scatter(trace: Trace, input: Axes, source: Axes, dim: int, *_: Any) -> Axes:
    """y[.., index, ..] = source: `dim` is pinned, the others hold the same indices."""
    trace.pin(input[dim], "written at positions")
    at = dim % len(input)
    for own, other in zip((*input[:at], *input[at + 1 :]), source, strict=True):
        trace.unify(own, other)
    return input


@rule(aten.unfold.default)
def unfold(trace: Trace, input: Axes, dimension: int, size: int, step: int) -> Axes:
    """y[.., w, .., k] = x[.., w * step + k, ..]: windows along a dimension, which is pinned."""
    trace.pin(input[dimension], "cut into windows")
    axes = list(input)
    axes[dimension] = trace.fixed(trace.shape[dimension], "cut into windows")
    return (*axes, trace.fixed(size, "window"))


@rule(aten.view_as_real.default)
def view_as_real(trace: Trace, input: Axes) -> Axes:
    """A new last axis for real and imaginary parts."""
    return (*input, trace.fixed(2, "real and imaginary parts"))


@rule(aten.view_as_complex.default)
def view_as_complex(trace: Trace, input: Axes) -> Axes:
    """The last axis held real and imaginary parts."""
    trace.pin(input[-1], "real and imaginary parts")
    return input[:-1]


@rule(aten.real.default, aten.imag.default)
def part(_: Trace, input: Axes) -> Axes:
    """Real or imaginary parts, element by element."""
    return input
