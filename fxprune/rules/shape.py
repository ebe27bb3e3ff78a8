"""Operations that rearrange axes without touching elements: view, permute, expand, flatten, pixel shuffle, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes, Axis, Product, Variable, head
from fxprune.rules.registry import rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def resize_shape(resizing: Resizing) -> Arguments:
    """`view(x, sizes)` and its kin: every size follows its axis; of symbolic ones that change, one becomes -1."""
    given = resizing.args[1]
    changed = [
        index
        for index, (size, axis) in enumerate(zip(given, resizing.result, strict=True))
        if not isinstance(size, int) and resizing.changed(axis)
    ]
    inferred = changed[0] if changed and -1 not in given else None
    sizes = [
        -1 if index == inferred else resizing.size(size, axis)
        for index, (size, axis) in enumerate(zip(given, resizing.result, strict=True))
    ]
    return resizing.with_argument(1, "size", sizes)


def resize_expanded(resizing: Resizing) -> Arguments:
    """`expand(x, sizes)`: every size follows its axis; -1 would mean the size that x has."""
    sizes = [resizing.size(size, axis) for size, axis in zip(resizing.args[1], resizing.result, strict=True)]
    return resizing.with_argument(1, "size", sizes)


@rule(
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    resize=resize_shape,
)
def reshape(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """Row-major reshape: products of axes are matched where running sizes meet."""
    return trace.reshape(input, trace.shape)


@rule(aten.flatten.using_ints, aten.ravel.default)
def flatten(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """Row-major reshape whose sizes follow by themselves."""
    return trace.reshape(input, trace.shape)


@rule(aten.view_as.default, aten.reshape_as.default)
def reshape_as(trace: Trace, input: Axes, other: Axes) -> Axes:
    """Row-major reshape to the sizes of another tensor, whose axes hold the same indices."""
    return trace.broadcast([trace.reshape(input, trace.shape), other])


def _resize_unflatten(resizing: Resizing) -> Arguments:
    given = resizing.args[2]
    start = resizing.args[1] % len(resizing.operand(0))
    axes = resizing.result[start : start + len(given)]
    sizes = [resizing.size(size, axis) for size, axis in zip(given, axes, strict=True)]
    return resizing.with_argument(2, "sizes", sizes)


@rule(aten.unflatten.int, resize=_resize_unflatten)
def unflatten(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """One axis becomes a product of several."""
    return trace.reshape(input, trace.shape)


@rule(aten.permute.default)
def permute(_: Trace, input: Axes, dims: Sequence[int]) -> Axes:
    """Y's axis i is x's axis dims[i]."""
    return tuple(input[dim] for dim in dims)


@rule(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default, aten.transpose_.default)
def transpose(_: Trace, input: Axes, dim0: int, dim1: int) -> Axes:
    """Two axes change places."""
    axes = list(input)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return tuple(axes)


@rule(aten.t.default, aten.numpy_T.default)
def reverse(_: Trace, input: Axes) -> Axes:
    """All axes in reverse order."""
    return input[::-1]


@rule(aten.mT.default, aten.adjoint.default, aten.mH.default)
def transpose_matrix(_: Trace, input: Axes) -> Axes:
    """The last two axes change places."""
    return (*input[:-2], input[-1], input[-2])


@rule(aten.movedim.int, aten.movedim.intlist)
def movedim(_: Trace, input: Axes, source: int | Sequence[int], destination: int | Sequence[int]) -> Axes:
    """Axes move to new places, the others keep their order."""
    sources = [source] if isinstance(source, int) else source
    targets = [destination] if isinstance(destination, int) else destination
    moved = {to % len(input): at % len(input) for at, to in zip(sources, targets, strict=True)}
    others = iter(at for at in range(len(input)) if at not in moved.values())
    return tuple(input[moved[to]] if to in moved else input[next(others)] for to in range(len(input)))


@rule(aten.unsqueeze.default, aten.unsqueeze_.default)
def unsqueeze(_: Trace, input: Axes, dim: int) -> Axes:
    """A new axis of size 1."""
    at = dim % (len(input) + 1)
    return (*input[:at], Variable(1), *input[at:])


def _resize_squeeze(resizing: Resizing) -> Arguments:
    """The axes that vanish are named: one that is cut to a single index stays."""
    gone = [at for at, axis in enumerate(resizing.operand(0)) if axis.size == 1]
    if len(resizing.node.args) > 1:
        named: Any = resizing.node.args[1]
        wanted = {at % len(resizing.operand(0)) for at in ([named] if isinstance(named, int) else named)}
        gone = [at for at in gone if at in wanted]
    return (resizing.args[0], gone), {}


@rule(
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze_.dim,
    resize=_resize_squeeze,
    resized=aten.squeeze.dims,
)
def squeeze(trace: Trace, input: Axes, *_: Any) -> Axes:
    """Axes of size 1 vanish."""
    return trace.reshape(input, trace.shape)


@rule(aten.expand.default, aten.broadcast_to.default, resize=resize_expanded)
def expand(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """Axes of size 1 are repeated: a new axis that nothing constrains; the others pass."""
    return expand_to(trace, input, trace.shape)


@rule(aten.expand_as.default)
def expand_as(trace: Trace, input: Axes, other: Axes) -> Axes:
    """Axes of size 1 take the other operand's axes."""
    return trace.broadcast([input, other])


def expand_to(trace: Trace, axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes after broadcasting to `shape`."""
    new = len(shape) - len(axes)
    padded = (*(Variable(1) for _ in range(new)), *axes)
    return tuple(axis if axis.size == size else trace.fresh(size) for axis, size in zip(padded, shape, strict=True))


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(trace: Trace, input: Axes, upscale_factor: int) -> Axes:
    """y[n, c, (h, i), (w, j)] = x[n, (c, i, j), h, w]."""
    factor = upscale_factor
    sizes = (input[-3].size // factor**2, factor, factor)
    channel, i, j = (trace.fixed(size, "pixel shuffle") if size == factor else trace.fresh(size) for size in sizes)
    trace.unify(input[-3], Product((channel, i, j)))
    return (*input[:-3], channel, Product((input[-2], i)), Product((input[-1], j)))


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(trace: Trace, input: Axes, downscale_factor: int) -> Axes:
    """y[n, (c, i, j), h, w] = x[n, c, (h, i), (w, j)]."""
    trace.pin_all(input[-2:], "pixel unshuffle")
    i, j = trace.fixed_axes((downscale_factor, downscale_factor), "pixel unshuffle")
    return (*input[:-3], Product((input[-3], i, j)), *trace.fixed_axes(trace.shape[-2:], "position"))


@rule(aten.channel_shuffle.default)
def channel_shuffle(trace: Trace, input: Axes, groups: int) -> Axes:
    """y[n, (c, g), p] = x[n, (g, c), p]; the number of groups is an argument, so it is pinned."""
    group, channel = trace.fixed(groups, "channel shuffle"), trace.fresh(input[1].size // groups)
    trace.unify(input[1], Product((group, channel)))
    return (input[0], Product((channel, group)), *input[2:])


def _resize_repeats(resizing: Resizing) -> Arguments:
    """Repetitions follow the outer factor of each repeated axis."""
    repeats = list(resizing.args[1])
    source = resizing.operand(0)
    for position in range(1, len(source) + 1):
        axis, given = source[-position], repeats[-position]
        if given != 1 and isinstance(given, int):
            repeats[-position] = resizing.kept(resizing.result[-position]) // resizing.kept(axis)
    return resizing.with_argument(1, "repeats", repeats)


@rule(aten.repeat.default, resize=_resize_repeats)
def repeat(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """y[(r, i)] = x[i] along each repeated axis."""
    padded = (*(Variable(1) for _ in range(len(trace.shape) - len(input))), *input)
    return tuple(_repeated(trace, axis, size) for axis, size in zip(padded, trace.shape, strict=True))


@rule(aten.tile.default)
def tile(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """As `repeat`, with the number of copies pinned."""
    axes = repeat(trace, input)
    for axis in axes:
        axis = head(axis)
        if isinstance(axis, Product):
            trace.pin(axis.factors[0], "tiled")
    return axes


def _repeated(trace: Trace, axis: Axis, size: int) -> Axis:
    if axis.size == size:
        return axis
    copies = trace.fresh(size // axis.size)
    return copies if axis.size == 1 else Product((copies, axis))


def _resize_interleave(resizing: Resizing) -> Arguments:
    args, kwargs = resizing.node.args, resizing.node.kwargs
    dim: Any = args[2] if len(args) > 2 else kwargs.get("dim")
    if dim is None:
        return resizing.args, resizing.kwargs
    kept = resizing.kept(resizing.result[dim])
    resized, named = resizing.with_argument(1, "repeats", kept // resizing.kept(resizing.operand(0)[dim]))
    return resized, {**named, "output_size": kept} if named.get("output_size") is not None else named


@rule(aten.repeat_interleave.self_int, resize=_resize_interleave)
def repeat_interleave(
    trace: Trace,
    input: Axes,
    repeats: int,
    dim: int | None = None,
    **_: Any,
) -> Axes:
    """y[(i, r)] = x[i] along `dim`."""
    if dim is None:
        trace.pin_all(input, "flattened and repeated")
        return trace.fixed_axes(trace.shape, "flattened and repeated")
    axes = list(input)
    copies = trace.fresh(trace.shape[dim] // input[dim].size)
    axes[dim] = copies if input[dim].size == 1 else Product((input[dim], copies))
    return tuple(axes)
