"""FLOPs of matrix products, convolutions, attention and recurrent layers, as `torch.utils.flop_counter` counts them.

A product with a vector on its right is computed by `mv` or `dot`, which the counter does not see: 0. Attention counts
as its two batched products, which is the counter's formula for the fused CUDA kernels and what it sees of the `MATH`
implementation; of the fused CPU kernel it sees nothing. An LSTM layer runs in one fused kernel: 0; GRU and plain
recurrent layers count as their linear layers, which is what the counter sees on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.costs.formulas import flops
from fxprune.costs.polynomial import ONE, Monomial, Shape, volume

aten = torch.ops.aten


@flops(aten.linear.default)
def linear(_: Shape, input: Shape, weight: Shape, *__: Any, **___: Any) -> Monomial | int:
    """2 * rows * inputs * outputs."""
    return 2 * volume(input[:-1]) * volume(weight) if len(weight) > 1 else 0


@flops(aten.mm.default, aten.bmm.default, aten.matmul.default, aten.linalg_matmul.default)
def matmul(_: Shape, left: Shape, right: Shape, *__: Any, **___: Any) -> Monomial | int:
    """2 * batch * m * k * n, batch dimensions broadcast."""
    if len(right) == 1:
        return 0
    return 2 * volume(broadcast(left[:-2], right[:-2])) * volume(left[-2:]) * right[-1]


@flops(aten.addmm.default, aten.baddbmm.default)
def add_product(result: Shape, _: Shape, left: Shape, right: Shape, **__: Any) -> Monomial | int:
    """As the product; adding counts as nothing."""
    return matmul(result, left, right)


@flops(aten.tensordot.default)
def tensordot(_: Shape, left: Shape, right: Shape, __: Sequence[int], dims_other: Sequence[int]) -> Monomial:
    """2 * elements of one operand * what the other does not contract."""
    contracted = {dim % len(right) for dim in dims_other}
    return 2 * volume(left) * volume(size for at, size in enumerate(right) if at not in contracted)


@flops(aten.inner.default)
def inner(_: Shape, left: Shape, right: Shape) -> Monomial | int:
    """2 * elements of one operand * rows of the other."""
    return 2 * volume(left) * volume(right[:-1]) if len(left) > 1 and len(right) > 1 else 0


@flops(
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
def convolution(result: Shape, _: Shape, weight: Shape, *__: Any, **___: Any) -> Monomial:
    """2 * output positions * elements of the weight, padding not excepted."""
    return 2 * _positions(result, weight) * volume(weight)


@flops(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(_: Shape, input: Shape, weight: Shape, *__: Any, **___: Any) -> Monomial:
    """2 * input positions * elements of the weight."""
    return 2 * _positions(input, weight) * volume(weight)


@flops(aten.convolution.default, aten._convolution.default)
def any_convolution(
    result: Shape,
    input: Shape,
    weight: Shape,
    bias: Shape | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *_: Any,
) -> Monomial:
    """As the convolution that the flag asks for."""
    return 2 * _positions(input if transposed else result, weight) * volume(weight)


def _positions(shape: Shape, weight: Shape) -> Monomial:
    """Batch (none: 1) times spatial sizes."""
    spatial = len(weight) - 2
    return volume((*shape[: -spatial - 1], *shape[len(shape) - spatial :]))


@flops(aten.scaled_dot_product_attention.default)
def attention(result: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> list[Monomial]:
    """2 * batch * heads * queries * keys * (query dimensions + value dimensions)."""
    scores = volume(broadcast(query[:-2], key[:-2])) * query[-2] * key[-2]
    return [2 * scores * query[-1], 2 * volume(result[:-2]) * query[-2] * key[-2] * value[-1]]


@flops(aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def recurrent(_: Any, input: Shape, __: Shape, params: Sequence[Shape], *___: Any) -> list[Monomial]:
    """2 * batch * steps * elements of every weight matrix."""
    steps = 2 * volume(input[:-1])
    return [steps * volume(weight) for weight in params if len(weight) > 1]


@flops(aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default)
def cell(_: Any, input: Shape, __: Any, w_ih: Shape, w_hh: Shape, *___: Any) -> list[Monomial]:
    """2 * batch * elements of both weight matrices."""
    rows = 2 * volume(input[:-1])
    return [rows * volume(w_ih), rows * volume(w_hh)]


def broadcast(*shapes: Shape) -> Shape:
    """Sizes after broadcasting; of two sizes the one that is not the constant 1 counts."""
    rank = max(map(len, shapes))
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((size for size in sizes if not size.is_one), ONE) for sizes in zip(*padded, strict=True))
