"""Translations of operations that PyTorch's ONNX exporter lacks.

A grouped product multiplies consecutive rows by the matrix of their group, whose last row the offsets tell:

    y[s] = x[s] W[g]    for offs[g - 1] <= s < offs[g]

In ONNX that is a slice and a product for each group, put together again; a group without rows yields no rows. Mixtures
of experts in Transformers are made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operations that are defined in this process -> functions that build their ONNX form."""
    found: dict[Callable[..., Any], Callable[..., Any]] = {}
    transformers = getattr(torch.ops.transformers, "grouped_mm_fallback", None)
    if transformers is not None:
        found[transformers.default] = grouped_product
    own = getattr(torch.ops.aten, "_grouped_mm", None)
    if own is not None:
        found[own.default] = grouped_product
    return found


def grouped_product(x: Any, weight: Any, offs: Any, bias: Any = None, out_dtype: int | None = None) -> Any:
    """Rows `x` (s, k), sorted by group, times `weight` (g, k, n), with the end of each group's rows in `offs` (g,)."""
    from onnx import TensorProto
    from onnxscript import opset18

    if len(x.shape) != 2 or len(weight.shape) != 3 or bias is not None:
        msg = "only grouped products of rows (s, k) with matrices (g, k, n) and no bias can be written to ONNX"
        raise NotImplementedError(msg)
    op: Any = opset18  # whose annotations do not allow for constants
    ends = op.Cast(offs, to=TensorProto.INT64)
    parts = []
    start = op.Constant(value_ints=[0])
    for group in range(int(weight.shape[0])):
        end = op.Slice(ends, op.Constant(value_ints=[group]), op.Constant(value_ints=[group + 1]))
        rows = op.Slice(x, start, end, op.Constant(value_ints=[0]))
        parts.append(op.MatMul(rows, op.Gather(weight, op.Constant(value_int=group), axis=0)))
        start = end
    return op.Concat(*parts, axis=0)
