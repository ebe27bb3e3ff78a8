"""Example inputs of another batch size: what tells a size that follows its input from one that was right by chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.program import Program


def with_another_batch(program: Program, flat: list[Any]) -> list[Any] | None:
    """Flat inputs whose batch is larger by one; None where the graph does not leave the batch free."""
    placeholders = [node for node in program.nodes if node.op == "placeholder"]
    if not program.dynamic_batch or len(placeholders) != len(flat):
        return None
    shapes: list[Any] = [getattr(node.meta.get("val"), "shape", ()) for node in placeholders]
    batch = next((shape[0] for shape in shapes if len(shape) and isinstance(shape[0], torch.SymInt)), None)
    if batch is None:
        return None
    return [_longer(value, shape, batch) for value, shape in zip(flat, shapes, strict=True)]


def _longer(value: Any, shape: Any, batch: torch.SymInt) -> Any:
    """A tensor with its first element once more along every axis of the batch."""
    if not isinstance(value, Tensor):
        return value
    for dim, size in enumerate(shape):
        if isinstance(size, torch.SymInt) and size.node.expr == batch.node.expr:
            value = torch.cat([value, value.narrow(dim, 0, 1)], dim)
    return value
