"""Slices of a tensor by what a plan says of it alone, without graph or axes: what a checkpoint on disk is cut by."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeGuard

import torch
from torch import Tensor

from fxprune.errors import CheckpointError
from fxprune.plan import Indices


def slice_tensor(tensor: Tensor, slices: Mapping[int, Indices]) -> Tensor:
    """What is kept of a tensor.

    Args:
        tensor: a parameter or buffer of the original.
        slices: its entry in `plan.slices`: {dimension: kept indices}; a list of lists where they differ along the
            first other dimension, which then falls into as many blocks of equal length as there are lists.

    Returns:
        A new tensor, or the same where nothing is cut.

    Raises:
        CheckpointError: the tensor has no such dimension or index, or does not fall into the blocks.

    Example:
        >>> slice_tensor(torch.arange(8).reshape(4, 2), {0: [0, 1, 3], 1: [0]}).tolist()
        [[0], [2], [6]]
    """
    nested = dict[int, list[list[int]]]()
    for dim, kept in slices.items():
        if _is_nested(kept):
            nested[dim] = kept
        else:
            tensor = tensor.index_select(dim, _index(tensor, dim, kept))
    for dim, rows in nested.items():
        tensor = _select_by_block(tensor, dim, rows)
    return tensor


def _is_nested(kept: Indices) -> TypeGuard[list[list[int]]]:
    return bool(kept) and isinstance(kept[0], list)


def _index(tensor: Tensor, dim: int, kept: object) -> Tensor:
    index = torch.tensor(kept, dtype=torch.long, device=tensor.device)
    if not 0 <= dim < tensor.dim() or (
        index.numel() and not 0 <= int(index.min()) <= int(index.max()) < tensor.shape[dim]
    ):
        msg = f"the plan keeps indices of dimension {dim} that a tensor of shape {tuple(tensor.shape)} does not have"
        raise CheckpointError(msg)
    return index


def _select_by_block(tensor: Tensor, dim: int, rows: list[list[int]]) -> Tensor:
    """Block b of the first other dimension keeps rows[b] of dimension `dim`."""
    index = _index(tensor, dim, rows)
    along = 1 if dim == 0 else 0
    if along >= tensor.dim() or tensor.shape[along] % len(rows) != 0:
        msg = f"the plan cuts dimension {dim} in {len(rows)} blocks; a tensor of shape {tuple(tensor.shape)} has none"
        raise CheckpointError(msg)
    index = index.repeat_interleave(tensor.shape[along] // len(rows), dim=0)
    shape = [1] * tensor.dim()
    shape[along], shape[dim] = index.shape
    laid = (index if along < dim else index.T).reshape(shape)
    target = [laid.shape[at] if at in (along, dim) else size for at, size in enumerate(tensor.shape)]
    assert prod(target) > 0
    return torch.gather(tensor, dim, laid.expand(target))
