"""The bytes of a cut tensor, piece by piece, from a file: memory is bounded by a few pieces, not by the tensor.

A tensor is gone through along dimension 0: the kept rows are read in bands of consecutive rows (small gaps are read over,
large ones skipped), and the other dimensions are cut within a band. What is not cut is read in large pieces as it is. Bytes
are never interpreted, so every type is treated alike, bfloat16 and float8 included.

Kept indices that come in runs (heads of 128 dimensions) are taken run by run: indices that consist of aligned blocks of u are
taken as blocks of u * itemsize bytes.

Where the rows themselves differ along dimension 1 (a nested choice on dimension 0), the tensor is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm, prod
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from fxprune.errors import CheckpointError
from fxprune.plan import Indices
from fxprune.shards.fates import Fate
from fxprune.shards.stored import BYTES, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]

PIECE = 32 << 20
"""Bytes that are read at once, where a row is not longer."""
GAP = 256 << 10
"""Bytes between two kept rows that are skipped rather than read over."""


def pieces(file: IO[bytes], fate: Fate) -> Iterator[Bytes]:
    """The bytes of a tensor after the cut, in order.

    Args:
        file: that holds it, unbuffered.
        fate: the tensor and its slices.

    Raises:
        CheckpointError: the file ends too early.
    """
    stored = fate.stored
    if not fate.slices or stored.size == 0:
        for start in range(0, stored.size, PIECE):
            yield read(file, stored.start + start, min(PIECE, stored.size - start))
    elif is_nested(fate.slices.get(0)):
        yield _flat(_cut_whole(read(file, stored.start, stored.size), stored, fate.slices))
    else:
        yield from _by_bands(file, stored, fate.slices)


def read(file: IO[bytes], start: int, size: int) -> Bytes:
    """Bytes of a file.

    Raises:
        CheckpointError: it ends before.
    """
    made = np.empty(size, np.uint8)
    view, done = made.data, 0
    file.seek(start)
    while done < size:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            msg = f"{file.name} ends {size - done} bytes before the end of a tensor; was it changed meanwhile?"
            raise CheckpointError(msg)
        done += count
    return made


def is_nested(kept: Indices | None) -> bool:
    """Whether kept indices are a list of lists."""
    return kept is not None and isinstance(kept[0], list)


def _by_bands(file: IO[bytes], stored: Stored, slices: Mapping[int, Indices]) -> Iterator[Bytes]:
    rows = np.asarray(slices.get(0, range(stored.shape[0])), dtype=np.int64)
    width = stored.size // stored.shape[0]
    rest = {dim: np.asarray(kept, dtype=np.int64) for dim, kept in slices.items() if dim != 0}
    blocks = lcm(*(len(kept) for kept in rest.values() if kept.ndim == 2))  # a band lies in one block of each
    length = len(rows) // blocks
    for block in range(blocks):
        own = {dim: kept[block * len(kept) // blocks] if kept.ndim == 2 else kept for dim, kept in rest.items()}
        for first, last in bands(rows[block * length : (block + 1) * length], width):
            band = rows[block * length + first : block * length + last]
            found = read(file, stored.start + int(band[0]) * width, int(band[-1] - band[0] + 1) * width)
            shaped = found.reshape(-1, *stored.shape[1:], BYTES[stored.dtype])
            yield _flat(_take_all(shaped, {0: band - band[0], **own}))


def bands(rows: NDArray[np.int64], width: int) -> list[tuple[int, int]]:
    """Stretches [first, last) of sorted rows that are read at once, each row `width` bytes."""
    found: list[tuple[int, int]] = []
    first = 0
    for at in range(1, len(rows)):
        if (rows[at] - rows[at - 1] - 1) * width > GAP or (rows[at] - rows[first] + 1) * width > PIECE:
            found.append((first, at))
            first = at
    return [*found, (first, len(rows))]


def _take_all(tensor: Bytes, kept: Mapping[int, NDArray[np.int64]]) -> Bytes:
    for dim in sorted(kept):
        tensor = take(tensor, kept[dim], dim)
    return tensor


def take(tensor: Bytes, kept: NDArray[np.int64], dim: int) -> Bytes:
    """Kept indices along one dimension; the last dimension of `tensor` is the bytes of an element."""
    shape = tensor.shape
    unit = unit_of(kept, shape[dim])
    coarse = kept[::unit] // unit
    if len(coarse) * unit == shape[dim]:
        return tensor
    inner = prod(shape[dim + 1 :]) * unit
    flat = tensor.reshape(prod(shape[:dim]), shape[dim] // unit, inner)
    if inner in _WORDS:
        flat = flat.view(_WORDS[inner])
    taken: Bytes = np.take(flat, coarse, axis=1).view(np.uint8)
    return taken.reshape(*shape[:dim], len(kept), *shape[dim + 1 :])


_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def unit_of(kept: NDArray[np.int64], size: int) -> int:
    """The largest u such that the kept indices of 0 ... size - 1 are whole aligned blocks of u.

    Example:
        >>> unit_of(np.array([4, 5, 6, 7, 12, 13, 14, 15]), 16)
        4
    """
    edges = np.flatnonzero(np.diff(kept) != 1) + 1
    starts, stops = kept[np.concatenate([[0], edges])], kept[np.concatenate([edges - 1, [len(kept) - 1]])] + 1
    return int(np.gcd.reduce(np.concatenate([starts, stops, [size]])))


def _cut_whole(found: Bytes, stored: Stored, slices: Mapping[int, Indices]) -> Bytes:
    """All dimensions of a tensor in memory, plain choices first."""
    tensor = found.reshape(*stored.shape, BYTES[stored.dtype])
    for dim in sorted(slices, key=lambda each: is_nested(slices[each])):
        kept = np.asarray(slices[dim], dtype=np.int64)
        tensor = take(tensor, kept, dim) if kept.ndim == 1 else _take_by_block(tensor, kept, dim)
    return tensor


def _take_by_block(tensor: Bytes, choices: NDArray[np.int64], dim: int) -> Bytes:
    """Block b of the first other dimension keeps choices[b] of `dim`."""
    along = 1 if dim == 0 else 0
    length = tensor.shape[along] // len(choices)
    made = np.empty((*tensor.shape[:dim], choices.shape[1], *tensor.shape[dim + 1 :]), np.uint8)
    for block, kept in enumerate(choices):
        own = (slice(None),) * along + (slice(block * length, (block + 1) * length),)
        made[own] = np.take(tensor[own], kept, axis=dim)
    return made


def _flat(tensor: Bytes) -> Bytes:
    return np.ascontiguousarray(tensor).reshape(-1)
