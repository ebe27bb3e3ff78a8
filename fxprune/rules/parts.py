"""Operations that put axes one behind the other or take parts of them: cat, split, chunk, slice, select, pad.

Kept indices of a concatenation are the parts' own, offset; so sizes and positions in the arguments become sizes and
positions among what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes, Axis, Concat, Variable
from fxprune.rules.registry import rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace, result_shapes

aten = torch.ops.aten


@rule(aten.cat.default, aten.concat.default)
def cat(trace: Trace, tensors: Sequence[Axes], dim: int = 0) -> Axes:
    """Along `dim` the axes stand one behind the other; the others hold the same indices."""
    wide = [axes for axes in tensors if len(axes) == len(trace.shape)]
    at = dim % len(trace.shape)
    masked = [tuple(Variable(1) if position == at else axis for position, axis in enumerate(axes)) for axes in wide]
    result = list(trace.broadcast(masked))
    result[at] = trace.join([axes[at] for axes in wide if axes[at].size])
    return tuple(result)


@rule(aten.hstack.default, aten.column_stack.default)
def hstack(trace: Trace, tensors: Sequence[Axes]) -> Axes:
    """Concatenation along the second dimension."""
    return _cat_matrices(trace, tensors, 1)


@rule(aten.vstack.default)
def vstack(trace: Trace, tensors: Sequence[Axes]) -> Axes:
    """Concatenation along the first dimension."""
    return _cat_matrices(trace, tensors, 0)


@rule(aten.dstack.default)
def dstack(trace: Trace, tensors: Sequence[Axes]) -> Axes:
    """Concatenation along the third dimension."""
    return _cat_matrices(trace, tensors, 2)


def _cat_matrices(trace: Trace, tensors: Sequence[Axes], dim: int) -> Axes:
    if all(len(axes) == len(trace.shape) > max(dim, 1) for axes in tensors):
        return cat(trace, tensors, dim)
    for axes in tensors:  # vectors and scalars, which become matrices first
        trace.pin_all(axes, "vectors stacked")
    return trace.fixed_axes(trace.shape, "vectors stacked")


@rule(aten.stack.default)
def stack(trace: Trace, tensors: Sequence[Axes], dim: int = 0) -> Axes:
    """A new axis that counts the operands, pinned; the others hold the same indices."""
    at = dim % len(trace.shape)
    axes = trace.broadcast(list(tensors))
    return (*axes[:at], trace.fixed(len(tensors), "stacked"), *axes[at:])


def _resize_split(resizing: Resizing) -> Arguments:
    """Any split becomes one with sizes: those that the parts keep."""
    args, kwargs = resizing.node.args, resizing.node.kwargs
    dim: Any = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    sizes = [resizing.kept(axes[dim]) for axes in resizing.result]
    return (resizing.args[0], sizes, dim), {}


@rule(
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.indices,
    aten.tensor_split.sections,
    aten.unsafe_split.Tensor,
    aten.unsafe_chunk.default,
    aten.unsafe_split_with_sizes.default,
    resize=_resize_split,
    resized=aten.split_with_sizes.default,
)
def split(trace: Trace, input: Axes, _: Any, dim: int = 0) -> tuple[Axes, ...]:
    """X = [y0 + y1 + ...] along `dim`."""
    assert trace.node is not None
    sizes = [shape[dim] for shape in result_shapes(trace.node) if shape is not None]
    parts = trace.parts(input[dim], sizes, "split where its structure has no boundary")
    return tuple(_replace(input, dim, part) for part in parts)


@rule(aten.unbind.int)
def unbind(trace: Trace, input: Axes, dim: int = 0) -> tuple[Axes, ...]:
    """One result for every index of `dim`, which is pinned."""
    trace.pin(input[dim], "taken apart index by index")
    at = dim % len(input)
    return tuple((*input[:at], *input[at + 1 :]) for _ in range(input[dim].size))


def _resize_slice(resizing: Resizing) -> Arguments:
    """Start and end are counted in kept elements; a stride along a pinned inner factor runs to the end."""
    dim, start, end, step = _slice_bounds(resizing.node.args, resizing.node.kwargs, resizing.operand(0))
    axis = resizing.operand(0)[dim]
    if not resizing.changed(axis) or not isinstance(start, int) or not isinstance(end, int):
        return resizing.args, resizing.kwargs
    if step != 1:
        return (resizing.args[0], dim, start, resizing.kept(axis), step), {}
    before = kept_before(axis, start, resizing)
    args = (resizing.args[0], dim, before, before + resizing.kept(resizing.result[dim]))
    return args, {}


def _slice_bounds(args: tuple[Any, ...], kwargs: dict[str, Any], axes: Axes) -> tuple[Any, Any, Any, int]:
    given = dict(zip(("input", "dim", "start", "end", "step"), args, strict=False)) | kwargs
    dim = given.get("dim", 0)
    size = axes[dim].size
    start, end = given.get("start"), given.get("end")
    bounds = _clamp(0 if start is None else start, size), _clamp(size if end is None else end, size)
    return dim, *bounds, given.get("step", 1)


def _clamp(position: Any, size: int) -> Any:
    if not isinstance(position, int):
        return position
    return min(max(position + size if position < 0 else position, 0), size)


def kept_before(axis: Axis, position: int, resizing: Resizing) -> int:
    """How many indices of a settled axis are kept before `position`, which is a boundary of its structure."""
    if position == 0:
        return 0
    if position == axis.size:
        return resizing.kept(axis)
    if isinstance(axis, Concat):
        count = 0
        for part in axis.parts:
            inside = min(position, part.size)
            count += kept_before(part, inside, resizing)
            position -= inside
        return count
    if isinstance(axis, Variable):
        assert not resizing.changed(axis)
        return position
    outer, inner = axis.factors[0], axis.size // axis.factors[0].size
    return kept_before(outer, position // inner, resizing) * (resizing.kept(axis) // resizing.kept(outer))


@rule(aten.slice.Tensor, resize=_resize_slice)
def slice_axis(
    trace: Trace,
    input: Axes,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> Axes:
    """X = [before + y + after] along `dim`; a strided slice takes one index of an inner factor."""
    size = input[dim].size
    if trace.shape[dim] == size:
        return input
    start, end = _clamp(0 if start is None else start, size), _clamp(size if end is None else end, size)
    if not isinstance(start, int) or not isinstance(end, int):
        return _computed(trace, input, dim)
    if step != 1:
        return _replace(input, dim, _strided(trace, input[dim], start, step, trace.shape[dim]))
    parts = trace.parts(input[dim], [start, max(end - start, 0), size - max(end, start)], "sliced inside its structure")
    return _replace(input, dim, parts[1])


def _computed(trace: Trace, axes: Axes, dim: int) -> Axes:
    reason = "sliced at positions that are computed"
    trace.pin(axes[dim], reason)
    return _replace(axes, dim, trace.fixed(trace.shape[dim], reason))


def _strided(trace: Trace, axis: Axis, start: int, step: int, count: int) -> Axis:
    """x[start::step] is the outer factor of x = outer x step, when that factors; `step` indices then go together."""
    pair = trace.solver.factor(axis, step) if start < step and count * step == axis.size else None
    if pair is None:
        trace.pin(axis, "sliced with a stride")
        return trace.fixed(count, "sliced with a stride")
    trace.pin(pair[1], "sliced with a stride")
    return pair[0]


def _resize_select(resizing: Resizing) -> Arguments:
    """The index is counted in kept elements."""
    dim, index = resizing.node.args[1], resizing.node.args[2]
    axis = resizing.operand(0)[dim]  # type: ignore[index]
    if not resizing.changed(axis) or not isinstance(index, int):
        return resizing.args, resizing.kwargs
    return resizing.with_argument(2, "index", kept_before(axis, index % axis.size, resizing))


@rule(aten.select.int, resize=_resize_select)
def select(trace: Trace, input: Axes, dim: int, index: Any) -> Axes:
    """One index of `dim` is taken and stays; the rest of the axis is free to go."""
    at = dim % len(input)
    if isinstance(index, int) and input[at].size > 1:
        index %= input[at].size
        trace.parts(input[at], [index, 1, input[at].size - index - 1], "one index of it is selected")
    else:
        trace.pin(input[at], "selected at a position that is computed")
    return (*input[:at], *input[at + 1 :])


def _resize_narrow(resizing: Resizing) -> Arguments:
    dim, start = resizing.node.args[1], resizing.node.args[2]
    axis = resizing.operand(0)[dim]  # type: ignore[index]
    if not resizing.changed(axis) or not isinstance(start, int):
        return resizing.args, resizing.kwargs
    length = resizing.kept(resizing.result[dim])
    return (resizing.args[0], dim, kept_before(axis, start % axis.size, resizing), length), {}


@rule(aten.narrow.default, resize=_resize_narrow)
def narrow(trace: Trace, input: Axes, dim: int, start: Any, length: Any) -> Axes:
    """`length` indices from `start` on."""
    if not isinstance(start, int) or not isinstance(length, int):
        return _computed(trace, input, dim)
    return slice_axis(trace, input, dim, start, start + length)


def _resize_pad(resizing: Resizing) -> Arguments:
    """Padding on an axis is counted in kept elements of the padding."""
    pads = list(resizing.args[1])
    source = resizing.operand(0)
    for position in range(1, len(pads) // 2 + 1):
        axis, result = source[-position], resizing.result[-position]
        before, after = pads[2 * position - 2], pads[2 * position - 1]
        if result is axis or not isinstance(result, Concat) or not resizing.changed(result):
            continue
        if before > 0:
            pads[2 * position - 2] = kept_before(result, before, resizing)
        if after > 0:
            pads[2 * position - 1] = resizing.kept(result) - kept_before(result, result.size - after, resizing)
    return resizing.with_argument(1, "pad", pads)


@rule(aten.pad.default, aten.constant_pad_nd.default, resize=_resize_pad)
def pad(trace: Trace, input: Axes, pads: Sequence[Any], mode: Any = "constant", *_: Any, **__: Any) -> Axes:
    """Y = [new + x + new] on each padded axis, for constants; other modes copy along the axis, which is pinned."""
    axes = list(input)
    for position in range(1, len(pads) // 2 + 1):
        before, after = pads[2 * position - 2], pads[2 * position - 1]
        if before == 0 and after == 0:
            continue
        constant = not isinstance(mode, str) or mode == "constant"
        if constant and all(isinstance(each, int) and each >= 0 for each in (before, after)):
            around = [Variable(each) for each in (before, after)]
            axes[-position] = trace.join([part for part in (around[0], input[-position], around[1]) if part.size])
        else:
            trace.pin(input[-position], "padded along it")
            axes[-position] = trace.fixed(trace.shape[-position], "padded along it")
    return tuple(axes)


@rule(
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
)
def pad_by_copying(trace: Trace, input: Axes, padding: Sequence[Any]) -> Axes:
    """Padding that copies along the axis, which is pinned."""
    return pad(trace, input, padding, "reflect")


@rule(aten.roll.default, aten.flip.default, aten.fft_fftshift.default)
def reorder(trace: Trace, input: Axes, *arguments: Any, **_: Any) -> Axes:
    """Indices change places along some axes, which are pinned."""
    dims = arguments[-1] if arguments and isinstance(arguments[-1], list | tuple) else range(len(input))
    for dim in dims or range(len(input)):
        trace.pin(input[dim], "its indices change places")
    return input


def _replace(axes: Axes, dim: int, axis: Axis) -> Axes:
    result = list(axes)
    result[dim] = axis
    return tuple(result)
