"""A tensor with the truth about each of its elements: alive, or cut away.

The interpreter runs the *original* graph, at its original sizes. Beside every value travels a boolean tensor of the
same shape. What is dead holds garbage: nothing may read it, and ``silence`` is how a product avoids reading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Masked:
    """A value and, of the same shape, which of its elements are alive."""

    value: Tensor
    alive: Tensor

    def __post_init__(self) -> None:
        assert self.alive.dtype == torch.bool, self.alive.dtype
        assert self.alive.shape == self.value.shape, (self.alive.shape, self.value.shape)

    @property
    def whole(self) -> bool:
        """Whether every element is alive."""
        return bool(self.alive.all())


def whole(value: Tensor) -> Masked:
    """The value with all of it alive."""
    return Masked(value, torch.ones_like(value, dtype=torch.bool, requires_grad=False))


def spread(value: Tensor, alive: Tensor) -> Masked:
    """The value with a mask that is broadcast to its shape and lies in memory of its own as the value lies in its.

    So the mask may be written to, and takes every view that the value takes.
    """
    return Masked(value, torch.empty_like(value, dtype=torch.bool, requires_grad=False).copy_(alive))


def silence(masked: Masked, fill: float | bool = 0) -> Tensor:
    """The value with its dead elements replaced (not multiplied: they may be infinite)."""
    return torch.where(masked.alive, masked.value, torch.as_tensor(fill, dtype=masked.value.dtype))


def uniform(alive: Tensor, dims: Sequence[int], doing: str) -> Tensor:
    """The mask with ``dims`` reduced to size 1; they must not differ in what is alive."""
    if not dims or 0 in alive.shape:
        return alive
    some, every = alive.amax(dim=tuple(dims), keepdim=True), alive.amin(dim=tuple(dims), keepdim=True)
    assert torch.equal(some, every), f"cut along {doing}: aliveness varies along dimensions {tuple(dims)}"
    return some
