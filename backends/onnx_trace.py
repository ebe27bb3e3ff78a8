"""What PyTorch's ONNX exporter is given: a program that it can write.

`torch.onnx.export` traces a module itself, decomposes the operations that ONNX does not have, and runs the result
several times over for types and shapes. Attention goes wrong on the way, whatever the model:

- Its result lies in memory as the kernel pleases that a pass takes it for: a `reshape` behind it that needs no copy in
  one pass is recorded as a `view` that does not exist in the next. A copy that fixes the order follows it here; in ONNX,
  where nothing has strides, that is nothing.
- Its decomposition takes four dimensions. Further ones (windows, say) are folded into the batch here, and where there
  are three, a batch of one stands before them:

      attention(q[..., h, l, d], k, v) = unfold(attention(fold(q), fold(k), fold(v)))      fold: (...) h l d -> (b) h l d
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

_ATTENTION = (
    torch.nn.functional.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention.default,
)


def trace_program(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """Trace a module with `torch.export` into a program that the ONNX exporter can write."""
    with PlainAttention():
        return torch.export.export(module, args, dict(kwargs), dynamic_shapes=dynamic_shapes, strict=False)


class PlainAttention(TorchFunctionMode):
    """While active, attention has four dimensions and a result in the order of its dimensions."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Change calls of attention; leave every other call as it is."""
        if func in _ATTENTION:
            return _attend(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(
    func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    shape = query.shape
    if query.dim() < 4:
        query, key, value = (each[(None,) * (4 - each.dim())] for each in (query, key, value))
        return _attend(func, query, key, value, attn_mask, *args, **kwargs).reshape(*shape[:-1], value.shape[-1])
    batch = query.shape[:-3]
    if query.dim() > 4:
        if attn_mask is not None and attn_mask.dim() > 2:
            sizes = torch.broadcast_shapes(attn_mask.shape[:-2], query.shape[:-2])
            attn_mask = attn_mask.expand(*sizes, *attn_mask.shape[-2:]).flatten(0, -4)
        query, key, value = (each.expand(*batch, *each.shape[-3:]).flatten(0, -4) for each in (query, key, value))
    result: Tensor = func(query, key, value, attn_mask, *args, **kwargs)
    result = result.clone(memory_format=torch.contiguous_format)
    return result.reshape(*batch, *result.shape[1:]) if len(batch) > 1 else result
