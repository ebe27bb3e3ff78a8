"""From values per tensor element to values per index of a group: which index stands at each position of an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.axes import Axes, Axis, Product, Variable, leaves
from fxprune.groups import Group


def index_of(axis: Axis, variable: Variable) -> Tensor:
    """For every position of a settled axis the index of `variable` there, -1 where it does not occur: int64 [size]."""
    if axis is variable:
        return torch.arange(axis.size)
    if isinstance(axis, Variable):
        return torch.full((axis.size,), -1)
    if not isinstance(axis, Product):
        return torch.cat([index_of(part, variable) for part in axis.parts])
    labels = torch.full([factor.size for factor in axis.factors], -1)
    for position, factor in enumerate(axis.factors):
        own = index_of(factor, variable)
        shape = [1] * labels.dim()
        shape[position] = factor.size
        labels = torch.maximum(labels, own.reshape(shape).expand_as(labels))
    return labels.flatten()


def sum_by_index(values: Tensor, axes: Axes, group: Group) -> Tensor:
    """Sum the values of all elements that belong to each index of a group.

    Args:
        values: one value per element of a tensor with these axes.
        axes: settled axes of the tensor.
        group: whose indices to sum by.

    Returns:
        float64 [group.size], or [outer size, group.size] for a nested group. A tensor in which the group occurs on
        several axes adds to each.
    """
    rows = 1 if group.outer is None else group.outer.size
    total = torch.zeros(rows * group.size, dtype=torch.float64, device=values.device)
    for dim, axis in enumerate(axes):
        if group.variable in leaves(axis):
            labels = index_of(axis, group.variable).to(values.device)
            if group.outer is None:
                _add(total, labels, _reduce(values, [dim]))
            else:
                _add_nested(total, labels, values, axes, dim, group, group.outer)
    return total.reshape(rows, group.size) if group.outer is not None else total


def _add_nested(
    total: Tensor, labels: Tensor, values: Tensor, axes: Axes, dim: int, group: Group, outer: Variable
) -> None:
    if outer in leaves(axes[dim]):
        rows = index_of(axes[dim], outer).to(values.device)
        _add(total, torch.where((labels < 0) | (rows < 0), -1, rows * group.size + labels), _reduce(values, [dim]))
        return
    along = next(at for at, axis in enumerate(axes) if outer in leaves(axis))
    rows = index_of(axes[along], outer).to(values.device)
    sums = _reduce(values, [along, dim])
    flat = torch.where((labels < 0)[None] | (rows < 0)[:, None], -1, rows[:, None] * group.size + labels[None])
    _add(total, flat.flatten(), (sums if along < dim else sums.T).flatten())


def _reduce(values: Tensor, dims: list[int]) -> Tensor:
    gone = [dim for dim in range(values.dim()) if dim not in dims]
    return values.sum(gone, dtype=torch.float64) if gone else values.double()


def _add(total: Tensor, labels: Tensor, values: Tensor) -> None:
    valid = labels >= 0
    total.index_add_(0, labels[valid], values[valid])
