"""Operations that read at given positions: embedding, index, gather, index_select, and their writing counterparts.

An axis that is addressed by positions is pinned: positions name indices. So are the positions' own axes, which a plan,
that speaks of parameters and buffers, could not cut where the positions are a constant. The other axes pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes
from fxprune.rules.registry import rule
from fxprune.rules.trace import Trace

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(trace: Trace, weight: Axes, indices: Axes, *_: Any, **__: Any) -> Axes:
    """y[..., d] = w[indices[...], d]."""
    trace.pin(weight[0], "vocabulary")
    trace.pin_all(indices, "looked up at positions")
    trace.label(weight[1], "features")
    return (*indices, weight[1])


@rule(aten.index.Tensor)
def index(trace: Trace, input: Axes, indices: Sequence[Axes | None]) -> Axes:
    """Y = x[i, j, :, ...]: indexed axes are pinned and replaced by the positions' own, pinned too; the others pass."""
    places = [at for at, positions in enumerate(indices) if positions is not None]
    for at in places:
        trace.pin(input[at], "indexed")
    positions = trace.broadcast([each for each in indices if each is not None])
    trace.pin_all(positions, "looked up at positions")
    passed = [axis for at, axis in enumerate(input) if at not in places]
    if len(passed) + len(positions) != len(trace.shape):  # a boolean mask: as many results as it has true elements
        trace.pin_all(input, "indexed by a mask")
        return trace.fixed_axes(trace.shape, "indexed by a mask")
    adjacent = places == list(range(places[0], places[-1] + 1)) if places else True
    start = places[0] if places and adjacent else 0
    return (*passed[:start], *positions, *passed[start:])


@rule(aten.index_select.default)
def index_select(trace: Trace, input: Axes, dim: int, index: Axes) -> Axes:
    """y[..., p, ...] = x[..., index[p], ...]."""
    trace.pin(input[dim], "indexed")
    axes = list(input)
    axes[dim] = trace.fixed(trace.shape[dim], "indexed")
    return tuple(axes)


@rule(aten.gather.default)
def gather(trace: Trace, input: Axes, dim: int, index: Axes, **_: Any) -> Axes:
    """y[i, j] = x[index[i, j], j]: `dim` is pinned, the others hold the same indices where their sizes agree."""
    trace.pin(input[dim], "indexed")
    for at, (own, other) in enumerate(zip(input, index, strict=True)):
        if at == dim % len(input):
            continue
        if own.size == other.size:
            trace.unify(own, other)
        else:
            trace.pin_all((own, other), "gathered from a longer axis")
    return index


@rule(aten.index_put.default, aten.index_put_.default)
def index_put(trace: Trace, input: Axes, indices: Sequence[Axes | None], values: Axes, *_: Any) -> Axes:
    """Y = x with y[i, j, :] = values: indexed axes are pinned, the others meet the trailing axes of the values."""
    places = [at for at, positions in enumerate(indices) if positions is not None]
    for at in places:
        trace.pin(input[at], "indexed")
    passed = tuple(axis for at, axis in enumerate(input) if at not in places)
    contiguous = places == list(range(len(places)))
    if contiguous and passed and len(values) >= len(passed):
        trace.broadcast([passed, values[len(values) - len(passed) :]])
        trace.pin_all(values[: len(values) - len(passed)], "written at positions")
    else:
        trace.pin_all((*input, *values), "written at positions")
    return input


@rule(aten.one_hot.default)
def one_hot(trace: Trace, input: Axes, *_: Any) -> Axes:
    """y[..., c] = (x[...] == c)."""
    return (*input, trace.fixed(trace.shape[-1], "one-hot"))
