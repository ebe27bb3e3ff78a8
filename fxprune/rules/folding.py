"""Windows as columns (im2col, col2im) and sampling along grids."""

from __future__ import annotations

from typing import Any

import torch

from fxprune.axes import Axes, Product
from fxprune.rules.registry import rule
from fxprune.rules.trace import Trace

aten = torch.ops.aten


@rule(aten.im2col.default)
def im2col(trace: Trace, input: Axes, kernel_size: Any, *_: Any, **__: Any) -> Axes:
    """y[n, (c, k), l] = x[n, c, position l + k]."""
    trace.pin_all(input[-2:], "slid over by im2col")
    rows, columns = kernel_size
    window = trace.fixed(rows * columns, "kernel")
    return (*input[:-3], Product((input[-3], window)), trace.fixed(trace.shape[-1], "position"))


@rule(aten.col2im.default)
def col2im(trace: Trace, input: Axes, output_size: Any, kernel_size: Any, *_: Any, **__: Any) -> Axes:
    """x[n, c, p] = sum of y[n, (c, k), l] over the windows l that cover p."""
    rows, columns = kernel_size
    window = trace.fixed(rows * columns, "kernel")
    channel = trace.fresh(input[-2].size // (rows * columns))
    trace.unify(input[-2], Product((channel, window)))
    trace.pin(input[-1], "position")
    return (*input[:-2], channel, *trace.fixed_axes(trace.shape[-2:], "position"))


@rule(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def grid_sampler(trace: Trace, input: Axes, grid: Axes, *_: Any) -> Axes:
    """y[n, c, p] = x[n, c, grid[n, p]]."""
    trace.pin_all((*input[2:], *grid[1:]), "sampled along a grid")
    trace.unify(input[0], grid[0])
    return (*input[:2], *trace.fixed_axes(trace.shape[2:], "position"))
