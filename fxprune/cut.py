"""A cut: which indices of every variable are kept, and what that makes of any axis of any tensor.

Evaluating an expression on the kept indices of its variables gives the kept positions of the axis:

    Variable   its kept indices
    Product    the grid of its factors' positions: i * size + j
    Concat     its parts' positions, offset, one after the other

A nested variable keeps other indices for each index of its outer variable, in equal number. Its outer variable stands
either before it in the same product, or on another dimension of the tensor; the tensor's kept positions then differ
along that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from fxprune.axes import Axes, Axis, Product, Variable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Positions: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cut:
    """Kept indices of the variables that lose some.

    Attributes:
        kept: variable -> sorted kept indices [k], or [outer size, k] for a nested one.
        outer: nested variable -> the variable under whose indices it chooses.
    """

    kept: Mapping[Variable, Positions]
    outer: Mapping[Variable, Variable]

    def __deepcopy__(self, _: object) -> Cut:
        """Itself: it is never edited, and its variables are told apart by identity."""
        return self

    def count(self, axis: Axis) -> int:
        """How many indices of `axis` are kept."""
        if isinstance(axis, Variable):
            kept = self.kept.get(axis)
            return axis.size if kept is None else kept.shape[-1]
        counts = [self.count(child) for child in (axis.factors if isinstance(axis, Product) else axis.parts)]
        return int(np.prod(counts)) if isinstance(axis, Product) else sum(counts)

    def touches(self, axes: Axes) -> bool:
        """Whether any of `axes` loses an index."""
        return any(self.count(axis) != axis.size for axis in axes)

    def grid(self, axes: Axes) -> list[Positions | None]:
        """Kept positions per dimension: None for all, [k] for a plain choice, [n, k] where they differ along another.

        In the last case n counts the kept positions of the dimension that `dimension_of_outer` names.
        """
        return [None if self.count(axis) == axis.size else self._positions(axes, at) for at, axis in enumerate(axes)]

    def dimension_of_outer(self, axes: Axes, dim: int) -> int | None:
        """The dimension along which the kept positions of `dim` differ, or None where they do not."""
        outers = self._free_outers(axes[dim])
        for at, axis in enumerate(axes):
            if at != dim and any(outer in _coordinates_of(axis) for outer in outers):
                return at
        assert not outers, "a nested choice without its outer variable in the tensor"
        return None

    def rows_per_outer(self, axes: Axes, dim: int) -> Positions:
        """Kept positions of a dimension whose choice is nested, one row for each kept index of the outer variable."""
        along = self.dimension_of_outer(axes, dim)
        assert along is not None
        (outer,) = self._free_outers(axes[dim])
        indices = self._evaluate(axes[along], {}, 1)[1][outer][0]
        _, first = np.unique(indices, return_index=True)
        rows: Positions = self._positions(axes, dim)[first]
        return rows

    def slice(self, tensor: torch.Tensor, axes: Axes) -> torch.Tensor:
        """What is kept of a tensor with these axes: a new tensor, or the same where nothing is cut."""
        grid = self.grid(axes)
        nested = {at: self.dimension_of_outer(axes, at) for at, positions in enumerate(grid) if positions is not None}
        for dim, along in nested.items():
            if along is None:
                tensor = tensor.index_select(dim, _index(grid[dim], tensor))
        for dim, along in nested.items():
            if along is not None:
                tensor = _select_along(tensor, _index(grid[dim], tensor), dim, along)
        return tensor

    def mask(self, axes: Axes, device: torch.device | None = None) -> torch.Tensor | None:
        """True where kept, with size 1 on dimensions that lose nothing; None where none does."""
        wanted = [axis if self.count(axis) != axis.size else Variable(1) for axis in axes]
        if all(axis.size == 1 for axis in wanted):
            return None
        for at in range(len(axes)):
            if wanted[at].size > 1 and (along := self.dimension_of_outer(axes, at)) is not None:
                wanted[along] = axes[along]
        shape = [axis.size for axis in wanted]
        kept = self.slice(torch.arange(int(np.prod(shape))).reshape(shape), tuple(wanted))
        mask = torch.zeros(int(np.prod(shape)), dtype=torch.bool)
        mask[kept.flatten()] = True
        return mask.reshape(shape).to(device)

    def _positions(self, axes: Axes, dim: int) -> Positions:
        along = self.dimension_of_outer(axes, dim)
        if along is None:
            positions: Positions = self._evaluate(axes[dim], {}, 1)[0][0]
            return positions
        _, coordinates = self._evaluate(axes[along], {}, 1)
        known = {variable: values[0] for variable, values in coordinates.items()}
        return self._evaluate(axes[dim], known, self.count(axes[along]))[0]

    def _evaluate(
        self, axis: Axis, known: Mapping[Variable, Positions], rows: int
    ) -> tuple[Positions, dict[Variable, Positions]]:
        """Positions [rows, count], and the index of every variable at each of them; `known` holds one index per row."""
        if isinstance(axis, Variable):
            indices = self._indices(axis, known, rows)
            return indices, {axis: indices}
        if isinstance(axis, Product):
            return self._evaluate_product(axis, known, rows)
        positions: list[Positions] = []
        offset = 0
        for part in axis.parts:
            positions.append(self._evaluate(part, known, rows)[0] + offset)
            offset += part.size
        return np.concatenate(positions, axis=1), {}

    def _evaluate_product(
        self, axis: Product, known: Mapping[Variable, Positions], rows: int
    ) -> tuple[Positions, dict[Variable, Positions]]:
        positions = np.zeros((rows, 1), dtype=np.int64)
        found: dict[Variable, Positions] = {}
        for factor in axis.factors:
            inside = {variable: np.repeat(values, positions.shape[1]) for variable, values in known.items()}
            inside.update({variable: values.reshape(-1) for variable, values in found.items()})
            own, coordinates = self._evaluate(factor, inside, positions.size)
            width = own.shape[1]
            positions = (positions.reshape(-1, 1) * factor.size + own).reshape(rows, -1)
            found = {variable: np.repeat(values, width, axis=1) for variable, values in found.items()}
            found.update({variable: values.reshape(rows, -1) for variable, values in coordinates.items()})
        return positions, found

    def _indices(self, variable: Variable, known: Mapping[Variable, Positions], rows: int) -> Positions:
        kept = self.kept.get(variable)
        if kept is None:
            kept = np.arange(variable.size)
        if kept.ndim == 1:
            return np.broadcast_to(kept, (rows, len(kept)))
        chosen: Positions = kept[known[self.outer[variable]]]
        return chosen

    def _free_outers(self, axis: Axis, bound: frozenset[Variable] = frozenset()) -> set[Variable]:
        """Outer variables that nested variables of `axis` need and that `axis` itself does not supply."""
        if isinstance(axis, Variable):
            kept = self.kept.get(axis)
            nested = kept is not None and kept.ndim > 1 and self.outer[axis] not in bound
            return {self.outer[axis]} if nested else set()
        if isinstance(axis, Product):
            needed = set[Variable]()
            for factor in axis.factors:
                needed |= self._free_outers(factor, bound)
                bound |= _coordinates_of(factor)
            return needed
        return set().union(*(self._free_outers(part, bound) for part in axis.parts))


def _coordinates_of(axis: Axis) -> frozenset[Variable]:
    """Variables whose index is known at every position of `axis`."""
    if isinstance(axis, Variable):
        return frozenset({axis})
    if isinstance(axis, Product):
        return frozenset().union(*(_coordinates_of(factor) for factor in axis.factors))
    return frozenset()


def _index(positions: Positions | None, tensor: torch.Tensor) -> torch.Tensor:
    assert positions is not None
    return torch.from_numpy(positions.copy()).to(tensor.device)


def _select_along(tensor: torch.Tensor, index: torch.Tensor, dim: int, along: int) -> torch.Tensor:
    """y[.., a, .., b, ..] = x[.., a, .., index[a, b], ..] with a on dimension `along` and b on `dim`."""
    shape = [1] * tensor.dim()
    shape[along], shape[dim] = index.shape
    laid = (index if along < dim else index.T).reshape(shape)
    target = list(tensor.shape)
    target[dim] = index.shape[1]
    return torch.gather(tensor, dim, laid.expand(target))
