"""Several processes on one compilation: `torchrun` starts them, and they share the scoring.

Every rank makes the same calls with the same model, the same data in the same order and the same arguments; evaluations
and batches are dealt out by position modulo the number of ranks, and what each has computed is exchanged. Searching and
rewriting are deterministic and every rank does them itself, so that every rank ends with the same slim module. Rank 0
alone writes the checkpoint and shows progress.

Results travel through the default process group, whether gloo or NCCL (with NCCL each process has to choose its device by
`torch.cuda.set_device`, as `torch.distributed` asks for). What ranks have computed is put together in the order of the
ranks and added in float64, so that every rank has the same bits. Without an initialised process group there is one rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import distributed

from fxprune.errors import CheckpointError, FxpruneError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Item = TypeVar("Item")
Value = TypeVar("Value")


def world() -> tuple[int, int]:
    """Rank of this process and the number of processes: (0, 1) without an initialised process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this is the process that writes and shows: rank 0."""
    return world()[0] == 0


def mine(items: Iterable[Item]) -> Iterator[Item]:
    """This rank's share: every item whose position modulo the number of ranks is the rank.

    Example:
        >>> list(mine(["a", "b", "c"]))  # one process
        ['a', 'b', 'c']
    """
    rank, size = world()
    return (item for position, item in enumerate(items) if position % size == rank)


def gathered(value: Value) -> list[Value]:
    """What every rank passed, in the order of the ranks."""
    _, size = world()
    if size == 1:
        return [value]
    found: list[Any] = [None] * size
    distributed.all_gather_object(found, value)
    return found


def merged(found: Mapping[str, Value]) -> dict[str, Value]:
    """The union of what the ranks found, the same on every rank; of keys that several hold, the lowest rank's value."""
    union: dict[str, Value] = {}
    for each in gathered(dict(found)):
        union = {**each, **union}
    return {key: union[key] for key in sorted(union)}


def summed(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The sum over ranks, in the order of the ranks, in float64: the same bits on every rank.

    Args:
        arrays: name -> array; a rank may lack some, which counts as zeros.
    """
    shapes = merged({name: each.shape for name, each in arrays.items()})
    return {name: _sum(arrays.get(name), shape) for name, shape in shapes.items()}


def _sum(own: NDArray[np.float64] | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.zeros(shape) if own is None else np.asarray(own, dtype=np.float64)
    _, size = world()
    if size == 1:
        return array.copy()
    sent = torch.from_numpy(np.ascontiguousarray(array)).to(group_device())
    parts = [torch.empty_like(sent) for _ in range(size)]
    distributed.all_gather(parts, sent)
    total: NDArray[np.float64] = parts[0].cpu().numpy().copy()
    for part in parts[1:]:
        total += part.cpu().numpy()
    return total


def group_device() -> torch.device:
    """Where the process group takes tensors from."""
    on_cuda = distributed.get_backend() == distributed.Backend.NCCL
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")


def from_first(make: Callable[[], Value]) -> Value:
    """What `make` returns on rank 0, which alone calls it; where it fails, every rank does.

    Raises:
        CheckpointError: rank 0 cannot read or write a file.
        FxpruneError: rank 0 failed otherwise.
    """
    return together(make if is_first() else None)[0]


def together(make: Callable[[], Value] | None) -> list[Value]:
    """What `make` returns on each rank that has one, in the order of the ranks; fails on all ranks if it does on one.

    A rank whose own call fails raises its own error, the others say whose failed, instead of waiting for it forever.

    Raises:
        CheckpointError: another rank cannot read or write a file.
        FxpruneError: another rank failed otherwise.
    """
    _, size = world()
    if size == 1:
        return [] if make is None else [make()]
    value, failure = _attempt(make)
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    outcomes = gathered((make is not None, value, text, isinstance(failure, CheckpointError)))
    if failure is not None:
        raise failure
    for rank, (_, _, text, of_file) in enumerate(outcomes):
        if text is not None:
            msg = f"rank {rank} failed: {text}"
            raise (CheckpointError if of_file else FxpruneError)(msg)
    return [found for called, found, *_ in outcomes if called]


def _attempt(make: Callable[[], Value] | None) -> tuple[Any, Exception | None]:
    try:
        return (None if make is None else make()), None
    except Exception as error:
        return None, error
