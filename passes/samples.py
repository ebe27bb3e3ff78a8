"""Values of a captured graph by sample and position: which rows belong to one sequence, and which are padding.

A value's axes tell: where its first axis is the first axis of an input, or a product that begins with it (tokens of all
sequences in one axis), rows belong to samples; where it is neither (rows sorted by experts), every row stands for itself.
Padding is what an input `attention_mask` [batch, positions] marks with 0; that of a decoder is `decoder_attention_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.axes import Axes, Axis, Product
from fxprune.propagate import Propagation
from fxprune.rules.elementwise import TensorAxes

MASK = "attention_mask"


@dataclass(slots=True)
class Given:
    """What one batch's inputs tell of all values.

    Attributes:
        axes: of each input tensor, by its name.
        sizes: number of samples of each input, by name.
        masks: name -> bool [batch, positions], true at tokens.
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)

    def add(self, node: Node, value: Any, propagation: Propagation) -> None:
        """Take an input in."""
        axes = propagation.values.get(node)
        if not isinstance(value, Tensor) or not isinstance(axes, TensorAxes) or not value.dim():
            return
        self.axes[node.name], self.sizes[node.name] = axes, value.shape[0]
        if node.name.endswith(MASK) and value.dim() == 2:
            self.masks[node.name] = value != 0


@dataclass(frozen=True, slots=True)
class Rows:
    """A value by sample and position.

    Attributes:
        values: [samples, positions, elements].
        mask: bool [samples, positions], true where a position counts; None where all do.
    """

    values: Tensor
    mask: Tensor | None

    def weights(self) -> Tensor:
        """1 where a position counts, else 0: float64 [samples, positions]."""
        if self.mask is None:
            return torch.ones(self.values.shape[:2], dtype=torch.float64, device=self.values.device)
        return self.mask.to(self.values.device, torch.float64)


def rows_of(value: Tensor, axes: Axes, held: Sequence[int], given: Given, *, known: bool = True) -> Rows:
    """A value with the dimensions `held` as its elements and the others as samples and positions.

    Args:
        value: any value of the graph.
        axes: its axes.
        held: dimensions of its elements.
        given: what the batch's inputs tell.
        known: False where rows are in an order of their own, whatever their axes say.
    """
    rest = [dim for dim in range(value.dim()) if dim not in held]
    elements = prod(value.shape[dim] for dim in held)
    moved = value.permute(*rest, *held)
    first = _first_input(axes, rest, given) if known else None
    if first is None:
        return Rows(moved.reshape(-1, 1, elements), None)
    rows = moved.reshape(given.sizes[first], -1, elements)
    return Rows(rows, _mask(given, axes, _positions(axes, rest), rows.shape[:2]))


def _first_input(axes: Axes, rest: Sequence[int], given: Given) -> str | None:
    """An input whose samples the value's first axis begins with: alone, or times the input's positions."""
    if not rest or rest[0] != 0:
        return None
    leading, *others = _factors(axes[0])
    for name, own in given.axes.items():
        if own[0] is leading and (not others or (len(own) > 1 and tuple(others) == _factors(own[1]))):
            return name
    return None


def _factors(axis: Axis) -> tuple[Axis, ...]:
    return axis.factors if isinstance(axis, Product) else (axis,)


def _positions(axes: Axes, rest: Sequence[int]) -> tuple[Axis, ...]:
    return (*_factors(axes[0])[1:], *(axes[dim] for dim in rest[1:]))


def _mask(given: Given, axes: Axes, positions: tuple[Axis, ...], shape: torch.Size) -> Tensor | None:
    """The mask of the input whose positions these are; without one, the only mask of that shape."""
    fitting: Mapping[str, Tensor] = {name: each for name, each in given.masks.items() if each.shape == shape}
    owner = next(
        (
            name
            for name, own in given.axes.items()
            if name not in given.masks
            and len(own) >= 2
            and positions == _factors(own[1])
            and own[0] is _factors(axes[0])[0]
        ),
        None,
    )
    if owner is not None and len(given.masks) > 1:
        return fitting.get(f"decoder_{MASK}" if owner.startswith("decoder_") else MASK)
    return next(iter(fitting.values())) if len(fitting) == 1 else None
