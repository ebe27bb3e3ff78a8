"""Peak memory: weights, and the bytes of the values that are alive at once while the graph runs, in order of execution.

Weights are all parameters, buffers and constants, tied ones once. Values are counted as PyTorch's eager mode holds
them:

- an operation allocates a storage of its result's elements times their size, unless its result shares the storage of an
  argument: views, operations in place, and operations that return their argument or a view of it where they can
  (`reshape`, `contiguous`, `flatten`, `dropout` in eval mode), which is decided as it was when the model was
  captured;
- a storage is alive from the operation that allocates it to the last that reads a value in it, both included; the
  inputs are alive throughout, and the outputs to the end;
- a view of a weight costs nothing.

The peak is the largest number of live bytes over all operations. Workspaces inside kernels, rounding by the allocator
and fragmentation are not counted.

    live[p] = sum over the storages s with start[s] <= p <= end[s] of bytes[s]
    peak    = max over p of live[p]

Bytes are monomials in the groups' widths with positive coefficients; a point whose coefficients are nowhere above
another's can never be the only peak and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from fxprune.costs.polynomial import Monomial, Table, compile_table, volume
from fxprune.costs.sizes import Sizes
from fxprune.program import Program

aten = torch.ops.aten

_DROPOUT = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
}


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory of values.

    Attributes:
        node: the operation (or input) that allocates it.
        start: its position in the graph.
        end: position of the last operation that reads a value in it.
        size: bytes.
    """

    node: Node
    start: int
    end: int
    size: Monomial


def find_storages(program: Program, sizes: Sizes) -> list[Storage]:
    """All storages that running the graph allocates, in order of allocation."""
    ledger = _Ledger(program, sizes)
    for node in program.nodes:
        for at, value in results_of(node):
            ledger.enter(node, at, value)
    return [Storage(node, ledger.position[node], ledger.ends[at], size) for at, (node, size) in enumerate(ledger.made)]


class _Ledger:
    """Which storage every value met so far is in; None stands for the weights."""

    __slots__ = ("ends", "made", "owner", "position", "sizes")

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.position = {node: at for at, node in enumerate(program.nodes)}
        self.sizes = sizes
        self.made: list[tuple[Node, Monomial]] = []
        self.ends: list[int] = []
        self.owner: dict[object, int | None] = {}

    def enter(self, node: Node, at: int, value: torch.Tensor) -> None:
        """Book result number `at` of `node`."""
        key = storage_key(value)
        if node.op == "get_attr":
            self.owner[key] = None
            return
        if key not in self.owner:
            base = _storage_of_argument(node) if _passes_through(node) else None
            self.owner[key] = self.owner[base] if base in self.owner else self._allocate(node, at, value)
        storage = self.owner[key]
        if storage is not None:
            self.ends[storage] = max(self.ends[storage], self._last_use(node))

    def _allocate(self, node: Node, at: int, value: torch.Tensor) -> int:
        shape = self.sizes.results(node)[at]
        assert shape is not None
        self.made.append((node, volume(shape) * value.dtype.itemsize))
        self.ends.append(0)
        return len(self.made) - 1

    def _last_use(self, node: Node) -> int:
        if node.op == "placeholder":
            return len(self.position) - 1
        return max((self.position[user] for user in node.users), default=self.position[node])


def results_of(node: Node) -> Iterator[tuple[int, torch.Tensor]]:
    """Tensors among the results of an operation, with their positions."""
    if node.op == "output":
        return
    value = node.meta.get("val")
    for at, each in enumerate(value if isinstance(value, list | tuple) else (value,)):
        if isinstance(each, torch.Tensor):
            yield at, each


def storage_key(value: torch.Tensor) -> object:
    """Identity of a tensor's storage, as the fake tensors of the capture share them.

    Inside `vmap`, which traces the functions that `flex_attention` is given, tensors show no storage: each has its own.
    """
    try:
        return value.untyped_storage()._cdata
    except NotImplementedError:
        return id(value), "batched"


def _storage_of_argument(node: Node) -> object:
    argument = node.args[0]
    assert isinstance(argument, Node)
    return storage_key(argument.meta["val"])


def _passes_through(node: Node) -> bool:
    """Whether the operation returns its argument itself, which the capture does not show of dropout in eval mode."""
    if node.target not in _DROPOUT:
        return False
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("train", True)
    return not training


def tabulate_live_bytes(storages: Sequence[Storage], unit: int) -> Table:
    """Live bytes at every point of the graph that may be the peak."""
    position: dict[tuple[int, ...], int] = {}
    for storage in storages:
        position.setdefault(storage.size.columns, len(position))
    points = 2 + max((storage.end for storage in storages), default=0)
    steps = np.zeros((points, max(len(position), 1)))
    for storage in storages:
        term = position[storage.size.columns]
        steps[storage.start, term] += storage.size.coefficient
        steps[storage.end + 1, term] -= storage.size.coefficient
    starts = sorted({storage.start for storage in storages})
    live = np.cumsum(steps, axis=0)[starts or [0]]
    return compile_table(list(position) or [()], undominated(_hills(live)), unit)


def _hills(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows that their successor does not reach or exceed in every place: a quick first selection."""
    followed = (rows[1:] >= rows[:-1]).all(axis=1)
    hills: NDArray[np.float64] = rows[~np.append(followed, False)]
    return hills


def undominated(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows that no other row reaches or exceeds in every place."""
    rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    kept = np.empty_like(rows)
    count = 0
    for row in rows:
        if not (kept[:count] >= row).all(axis=1).any():
            kept[count] = row
            count += 1
    return kept[:count]
