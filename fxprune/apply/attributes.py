"""Tensors that a module keeps as plain attributes, neither parameters nor buffers: position tables, mostly.

In the graph they are constants, which were sliced; which constant an attribute became is told by its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def slim_attributes(
    model: nn.Module, constants: Iterable[tuple[Any, Any]], moved: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """What plain tensor attributes become, by their identity; those that are not cut are left out.

    Args:
        model: the original.
        constants: constants of the graph and what they became.
        moved: brings a constant to the slim module's device and dtype.
    """
    cut = [
        (old, new)
        for old, new in constants
        if isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape != new.shape
    ]
    found: dict[int, Tensor] = {}
    for tensor in _plain_tensors(model) if cut else ():
        slim = [new for old, new in cut if _same(old, tensor)]
        if slim and all(_same(slim[0], each) for each in slim):
            found[id(tensor)] = moved(slim[0].clone())
    return found


def _plain_tensors(model: nn.Module) -> Iterable[Tensor]:
    return (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
