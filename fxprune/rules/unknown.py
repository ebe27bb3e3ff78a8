"""Operations without a rule: every axis that touches them is pinned, and the report says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fxprune.axes import Axes
from fxprune.rules.elementwise import is_axes
from fxprune.rules.trace import Trace, result_shapes


def pin_everything(trace: Trace, args: Any, kwargs: Any) -> Any:
    """Pin all axes of all tensor arguments; the results' axes are new and pinned."""
    assert trace.node is not None
    reason = f"{trace.node.target} has no rule"
    for axes in tensors_in((args, kwargs)):
        trace.pin_all(axes, reason)
    shapes = result_shapes(trace.node)
    results = tuple(None if shape is None else trace.fixed_axes(shape, reason) for shape in shapes)
    return results[0] if isinstance(trace.node.meta.get("val"), torch.Tensor) else results


def tensors_in(value: Any) -> Iterator[Axes]:
    """Axes of every tensor in a nest of arguments."""
    if is_axes(value):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
