"""Masks of parameters and buffers from a plan's slices.

``{name: {dim: kept indices}}``: an element is alive if each of its indices is kept. Where the kept indices of a dim
differ along another, they are a list of lists, one per kept group: the kept rows of the other dim fall into as many
equal consecutive runs, and each run has its own list. The other dim is the first one that is not the dim itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

Slices = Mapping[str, Mapping[int, Sequence[Any]]]


def parameter_mask(shape: Sequence[int], slices: Mapping[int, Sequence[Any]]) -> Tensor:
    """Which elements of a parameter of this shape the slices keep."""
    alive = torch.ones(tuple(shape), dtype=torch.bool)
    for dim, kept in slices.items():
        assert 0 <= dim < len(shape), f"dimension {dim} of a tensor of shape {tuple(shape)}"
        if is_nested(kept):
            alive &= nested_mask(shape, slices, dim)
        else:
            alive &= along(shape, dim, member(shape[dim], kept))
    return alive


def is_nested(kept: Sequence[Any]) -> bool:
    """Whether the kept indices differ along another dim."""
    return len(kept) > 0 and isinstance(kept[0], Sequence)


def nested_mask(shape: Sequence[int], slices: Mapping[int, Sequence[Any]], dim: int) -> Tensor:
    """Each run of kept rows of the outer dim with its own kept indices of the inner dim."""
    lists = slices[dim]
    assert len({len(each) for each in lists}) == 1, "groups must keep equally many"
    outer = outer_dim(shape, slices, dim)
    rows = kept_rows(shape, slices, outer)
    run = len(rows) // len(lists)
    table = torch.zeros(shape[outer], shape[dim], dtype=torch.bool)
    for position, row in enumerate(rows):
        table[row] = member(shape[dim], lists[position // run])
    full = [1] * len(shape)
    full[outer], full[dim] = shape[outer], shape[dim]
    return (table if outer < dim else table.T).reshape(full)


def outer_dim(shape: Sequence[int], slices: Mapping[int, Sequence[Any]], dim: int) -> int:
    """The dim along which the kept indices of another differ."""
    found = 1 if dim == 0 else 0
    fits = found < len(shape) and len(kept_rows(shape, slices, found)) % len(slices[dim]) == 0
    assert fits, f"dimension {found} of {tuple(shape)} does not fall into {len(slices[dim])} groups"
    assert not is_nested(slices.get(found, ())), "a choice nested in a nested one"
    return found


def kept_rows(shape: Sequence[int], slices: Mapping[int, Sequence[Any]], dim: int) -> list[int]:
    """The kept indices of a dim that is cut plainly or not at all."""
    return list(slices.get(dim, range(shape[dim])))


def member(size: int, kept: Sequence[int]) -> Tensor:
    """Which of ``size`` indices are kept."""
    assert list(kept) == sorted(set(kept)), f"kept indices must ascend: {kept}"
    assert not kept or 0 <= kept[0] <= kept[-1] < size, f"kept indices outside {size}: {kept}"
    alive = torch.zeros(size, dtype=torch.bool)
    alive[list(kept)] = True
    return alive


def along(shape: Sequence[int], dim: int, vector: Tensor) -> Tensor:
    """The vector along one dim, to be broadcast over the others."""
    full = [1] * len(shape)
    full[dim] = shape[dim]
    return vector.reshape(full)
