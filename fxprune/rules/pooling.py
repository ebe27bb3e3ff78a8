"""Pooling and resampling: windows slide over the trailing axes, all leading axes pass.

The axes slid over are pinned, also where one of them holds channels.
"""

from __future__ import annotations

from typing import Any

import torch

from fxprune.axes import Axes
from fxprune.rules.registry import rule
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def _slide(trace: Trace, input: Axes, spatial: int, what: str) -> Axes:
    leading = len(input) - spatial
    trace.pin_all(input[leading:], what)
    return (*input[:leading], *trace.fixed_axes(trace.shape[leading:], "position"))


@rule(aten.max_pool1d.default, aten.avg_pool1d.default, aten.adaptive_avg_pool1d.default)
def pool_1d(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """y[..., p] = pool of x over a window around p."""
    return _slide(trace, input, 1, "slid over by a pooling")


@rule(aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default)
def pool_2d(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """y[..., p, q] = pool of x over a window around (p, q)."""
    return _slide(trace, input, 2, "slid over by a pooling")


@rule(aten.max_pool3d.default, aten.avg_pool3d.default, aten.adaptive_avg_pool3d.default)
def pool_3d(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """y[..., p, q, r] = pool of x over a window around (p, q, r)."""
    return _slide(trace, input, 3, "slid over by a pooling")


@rule(
    aten.max_pool2d_with_indices.default,
    aten.adaptive_max_pool2d.default,
)
def pool_2d_positions(trace: Trace, input: Axes, *_: Any, **__: Any) -> tuple[Axes, Axes]:
    """Maximum over windows, and where it stood."""
    axes = _slide(trace, input, 2, "slid over by a pooling")
    return axes, axes


@rule(
    aten.max_pool3d_with_indices.default,
    aten.adaptive_max_pool3d.default,
)
def pool_3d_positions(trace: Trace, input: Axes, *_: Any, **__: Any) -> tuple[Axes, Axes]:
    """Maximum over windows, and where it stood."""
    axes = _slide(trace, input, 3, "slid over by a pooling")
    return axes, axes


@rule(
    aten.max_pool1d_with_indices.default,
    aten.adaptive_max_pool1d.default,
)
def pool_1d_positions(trace: Trace, input: Axes, *_: Any, **__: Any) -> tuple[Axes, Axes]:
    """Maximum over windows, and where it stood."""
    axes = _slide(trace, input, 1, "slid over by a pooling")
    return axes, axes


@rule(
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_trilinear3d.vec,
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.default,
)
def resample(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """y[n, c, p] = interpolation of x[n, c, .] at p."""
    return _slide(trace, input, len(input) - 2, "interpolated over")
