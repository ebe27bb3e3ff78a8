"""Statistics along axes: mean, sum, variance, extrema, norms, softmax.

A mean, a variance or a norm along a cut axis is taken over what is kept. Softmax is not: its result along the axis is a
distribution over given things, so the axis is pinned. So are axes along which positions are computed (argmax, cumsum,
sort). The exception are routers (`fxprune.rules.routing`): experts that are cut can no longer be chosen, and softmax, choice
and counts are those of the experts that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes, Variable
from fxprune.rules.registry import Role, rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.routing import chosen_by, leads_to_choice, routes
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def drop_dims(trace: Trace, axes: Axes, dims: int | Sequence[int] | None) -> Axes:
    """Axes of a reduction's result: `dims` gone, or of size 1 where the result keeps its rank; none given means all."""
    wanted = [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in wanted} if wanted else set(range(len(axes)))
    trace.mix(*(axes[at] for at in gone))
    if len(trace.shape) == len(axes):
        return tuple(Variable(1) if position in gone else axis for position, axis in enumerate(axes))
    return tuple(axis for position, axis in enumerate(axes) if position not in gone)


@rule(
    aten.mean.default,
    aten.sum.default,
    aten.prod.default,
    aten.var.default,
    aten.std.default,
    aten.max.default,
    aten.min.default,
    aten.any.default,
    aten.all.default,
    aten.norm.Scalar,
    role=Role.REDUCTION,
)
def reduce_all(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """Y = statistic of all kept elements."""
    trace.mix(*input)
    return ()


@rule(
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
    aten.amin.default,
    aten.logsumexp.default,
    aten.prod.dim_int,
    aten.var.dim,
    aten.std.dim,
    aten.var.correction,
    aten.std.correction,
    aten.any.dim,
    aten.all.dim,
    aten.nansum.default,
    aten.nanmean.default,
    aten.count_nonzero.default,
    aten.count_nonzero.dim_IntList,
    role=Role.REDUCTION,
)
def reduce_dims(trace: Trace, input: Axes, dim: int | Sequence[int] | None = None, *_: Any, **__: Any) -> Axes:
    """y[...] = statistic of x along `dim`, over what is kept of it."""
    return drop_dims(trace, input, dim)


@rule(
    aten.var_mean.correction,
    aten.std_mean.correction,
    aten.var_mean.dim,
    aten.std_mean.dim,
    role=Role.REDUCTION,
)
def reduce_with_mean(
    trace: Trace,
    input: Axes,
    dim: int | Sequence[int] | None = None,
    *_: Any,
    **__: Any,
) -> tuple[Axes, Axes]:
    """Variance and mean along `dim`, over what is kept."""
    return drop_dims(trace, input, dim), drop_dims(trace, input, dim)


@rule(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, role=Role.REDUCTION)
def vector_norm(
    trace: Trace,
    input: Axes,
    ord: Any = 2,
    dim: int | Sequence[int] | None = None,
    *_: Any,
    **__: Any,
) -> Axes:
    """y[...] = ||x|| along `dim`, over what is kept."""
    return drop_dims(trace, input, dim)


@rule(aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default, role=Role.REDUCTION)
def softmax(trace: Trace, input: Axes, dim: int, *_: Any, **__: Any) -> Axes:
    """Y = exp(x) / sum exp(x) along `dim`, which is pinned unless the result chooses experts."""
    assert trace.node is not None
    if input and dim in (-1, len(input) - 1) and leads_to_choice(trace.node):
        trace.mix(input[dim])
    elif input:
        trace.pin(input[dim], "softmax over it")
    return input


@rule(
    aten.cumsum.default,
    aten.cumprod.default,
    aten.logcumsumexp.default,
    aten.cumsum_.default,
)
def cumulative(trace: Trace, input: Axes, dim: int, *_: Any, **__: Any) -> Axes:
    """y[i] = f(x[0], ..., x[i]): the order along `dim` matters, so it is pinned, unless it counts rows of experts.

    Of these the ones that are cut have none, which leaves the others' sums as they are.
    """
    assert trace.node is not None
    if input and trace.node.args[0] not in trace.numbered:
        trace.pin(input[dim], "accumulated along it")
    return input


@rule(aten.diff.default)
def difference(trace: Trace, input: Axes, n: int = 1, dim: int = -1, *_: Any) -> Axes:
    """y[i] = x[i + 1] - x[i] along `dim`: the order matters, so it is pinned."""
    trace.pin(input[dim], "differences along it")
    axes = list(input)
    axes[dim] = trace.fixed(trace.shape[dim], "differences along it")
    return tuple(axes)


@rule(aten.cdist.default, role=Role.REDUCTION)
def pairwise_distance(trace: Trace, left: Axes, right: Axes, *_: Any) -> Axes:
    """y[b, i, j] = ||x1[b, i, :] - x2[b, j, :]||, the norm over what is kept."""
    trace.unify(left[-1], right[-1])
    trace.mix(left[-1])
    return (*trace.broadcast([left[:-2], right[:-2]]), left[-2], right[-2])


@rule(aten.cosine_similarity.default, role=Role.REDUCTION)
def cosine_similarity(trace: Trace, x1: Axes, x2: Axes, dim: int = 1, *_: Any, **__: Any) -> Axes:
    """y[...] = sum_i x1[i] x2[i] / (||x1|| ||x2||) along `dim`, over what is kept."""
    return drop_dims(trace, trace.broadcast([x1, x2]), dim)


@rule(
    aten.max.dim,
    aten.min.dim,
    aten.sort.default,
    aten.sort.stable,
    aten.mode.default,
    aten.kthvalue.default,
)
def values_and_positions(trace: Trace, input: Axes, *_: Any, **__: Any) -> tuple[Axes, Axes]:
    """Values and their positions along a dimension: positions name indices, so the dimension is pinned."""
    return _positions(trace, input), _positions(trace, input)


@rule(aten.topk.default, role=Role.REDUCTION)
def largest(trace: Trace, input: Axes, k: int, *_: Any, **__: Any) -> tuple[Axes, Axes]:
    """The k largest of what is kept and their positions: an axis can only be cut where they choose experts, to k at least."""
    node = trace.node
    assert node is not None
    if not input or not isinstance(k, int) or not routes(node):
        return _positions(trace, input), _positions(trace, input)
    trace.mix(input[-1])
    trace.number(input[-1], node, at_least=k)
    chosen = trace.fixed(k, "number of experts for each token")
    return (*input[:-1], chosen), (*input[:-1], chosen)


def _resize_bins(resizing: Resizing) -> Arguments:
    """As many bins as there are experts left, for their new numbers."""
    (axis,) = resizing.result
    if not resizing.changed(axis):
        return resizing.args, resizing.kwargs
    kept = resizing.kept(axis)
    return (resizing.args[0], kept, 0, kept - 1), resizing.kwargs


@rule(aten.histc.default, role=Role.REDUCTION, resize=_resize_bins)
def histogram(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """Numbers of elements: along the experts' axis where the elements are numbers of experts."""
    node = trace.node
    assert node is not None
    trace.pin_all(input, "counted")
    choice = chosen_by(node.args[0])  # type: ignore[arg-type]
    axis = None if choice is None else trace.numbered.get(choice)
    if axis is None:
        return trace.fixed_axes(trace.shape, "counts")
    trace.mix(axis)
    trace.number(axis, node)
    return (axis,)


@rule(aten.argmax.default, aten.argmin.default, aten.argsort.default, aten.argsort.stable)
def positions(trace: Trace, input: Axes, *_: Any, **__: Any) -> Axes:
    """Positions along a dimension, which is pinned."""
    return _positions(trace, input)


def _positions(trace: Trace, input: Axes) -> Axes:
    """All axes are pinned: which dimension is searched differs between overloads, and positions are rare."""
    trace.pin_all(input, "positions along it are computed")
    return trace.fixed_axes(trace.shape, "positions along it are computed")
