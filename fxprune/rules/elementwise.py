"""Element-wise operations: y[i, j] = f(a[i, j], b[i, j], ...).

Operands are broadcast against each other; dimensions that are not of size 1 hold the same indices. Every operation
whose ATen schema carries the `pointwise` tag falls under the rule registered here, in-place and scalar overloads
included; the table adds those that act element by element without carrying the tag.
"""

from __future__ import annotations

from typing import Any

import torch

from fxprune.axes import Axes
from fxprune.rules.registry import POINTWISE, rule
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def is_axes(value: object) -> bool:
    """Whether a rule's argument is a tensor's axes rather than a number, a string or a list of sizes."""
    return isinstance(value, TensorAxes)


class TensorAxes(tuple):  # type: ignore[type-arg]
    """Axes of a tensor argument: a tuple that can be told from a tuple of numbers."""

    __slots__ = ()


@rule(
    POINTWISE,
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.addcmul_.default,
    aten.addcdiv_.default,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
    aten.masked_fill_.Scalar,
    aten.masked_fill_.Tensor,
    aten.copy_.default,
    aten.rrelu.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.gelu_.default,
    aten.mish_.default,
    aten.threshold_.default,
    aten.floor_divide.default,
    aten.floor_divide.Scalar,
    aten.multiply.Tensor,
    aten.multiply.Scalar,
    aten.subtract.Tensor,
    aten.subtract.Scalar,
    aten.true_divide.Tensor,
    aten.negative.default,
    aten.absolute.default,
    aten.special_expit.default,
    aten.rsub.Tensor,
    aten.isclose.default,
    aten.ldexp.Tensor,
    aten.masked_fill.Tensor,
    aten.polar.default,
    aten.complex.default,
    aten.bernoulli.p,
    aten.fill.Scalar,
    aten.fill.Tensor,
    aten.selu.default,
    aten.selu_.default,
    aten.log_sigmoid.default,
    aten.max.other,
    aten.min.other,
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.__xor__.Tensor,
    aten.relu6.default,
    aten.relu6_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.elu.default,
    aten.elu_.default,
    aten.celu.default,
    aten.celu_.default,
    aten.silu.default,
    aten.silu_.default,
    aten.mish.default,
    aten.mish_.default,
    aten.gelu.default,
    aten.gelu_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.hardsigmoid.default,
    aten.hardsigmoid_.default,
    aten.softplus.default,
    aten.softshrink.default,
    aten.hardshrink.default,
    aten.threshold.default,
    aten.threshold_.default,
    aten.rrelu.default,
    aten.rrelu_.default,
    aten.fake_quantize_per_tensor_affine.default,
)
def elementwise(trace: Trace, *operands: Any, **named: Any) -> Axes:
    """Y = f(a, b, ...), element by element over the broadcast operands."""
    return trace.broadcast([each for each in (*operands, *named.values()) if is_axes(each)])


@rule(
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten._to_copy.default,
    aten.type_as.default,
    aten.to.other,
    aten.zero_.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.bernoulli.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
    aten.conj.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
    aten.positive.default,
)
def same_axes(_: Trace, input: Axes, *__: Any, **___: Any) -> Axes:
    """Y has the shape and the indices of x, whatever its values are."""
    return input


@rule(aten.prelu.default)
def prelu(trace: Trace, input: Axes, weight: Axes) -> Axes:
    """y[n, c, ...] = max(x, 0) + w[c] min(x, 0); one weight for all channels meets anything."""
    channel = input[1] if len(input) > 1 else input[0]
    if weight[0].size != 1:
        trace.unify(channel, weight[0])
    return input


@rule(aten.glu.default)
def glu(trace: Trace, input: Axes, dim: int = -1) -> Axes:
    """Y = a * sigmoid(b) with x = [a + b] along `dim`."""
    half = input[dim].size // 2
    first, second = trace.parts(input[dim], [half, half], "halves of a gated linear unit")
    trace.unify(first, second)
    axes = list(input)
    axes[dim] = first
    return tuple(axes)
