"""Whether what is alive is a dense tensor, and which one.

A mask is a grid if its alive elements are an outer product of index sets, or if along some axis every slice that is not
wholly dead is a grid of the same shape (kept indices that differ from group to group, in equal number). Where that can
be said of two axes (groups that share no index), the first is taken: groups stand before what they group.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compact(value: Tensor, alive: Tensor) -> Tensor:
    """The alive elements as the smaller dense tensor that they are.

    Raises:
        AssertionError: they are none.
    """
    index = grid_index(alive)
    assert index is not None, "the alive elements form no grid"
    return value.reshape(-1)[index]


def grid_index(alive: Tensor) -> Tensor | None:
    """The position (in the flattened tensor) of each element of the smaller one, or None if there is no grid."""
    return packed(alive, torch.arange(alive.numel(), device=alive.device).reshape(alive.shape))


def packed(alive: Tensor, index: Tensor) -> Tensor | None:
    """``index`` where alive, as a dense tensor."""
    for dim in range(alive.dim()):
        others = [each for each in range(alive.dim()) if each != dim]
        used = (alive.sum(others) > 0 if others else alive).nonzero().squeeze(1)
        alive, index = alive.index_select(dim, used), index.index_select(dim, used)
    if bool(alive.all()):
        return index
    return next((found for dim in varying(alive) if (found := stacked(alive, index, dim)) is not None), None)


def varying(alive: Tensor) -> list[int]:
    """The axes along which aliveness varies."""
    return [dim for dim in range(alive.dim()) if not torch.equal(alive, alive.narrow(dim, 0, 1).expand_as(alive))]


def stacked(alive: Tensor, index: Tensor, dim: int) -> Tensor | None:
    """The grid whose slices along one axis are grids of one shape."""
    parts: list[Tensor] = []
    for mask, positions in zip(alive.unbind(dim), index.unbind(dim), strict=True):
        part = packed(mask, positions)
        if part is None or (parts and part.shape != parts[0].shape):
            return None
        parts.append(part)
    return torch.stack(parts, dim)
