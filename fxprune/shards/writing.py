"""One file of the cut checkpoint: a header with the new shapes, then the tensors in the order in which they were.

Reading and cutting run one piece ahead, in a thread of their own, of hashing and writing. The file is written beside its
place, flushed to the disk, and takes its place whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from fxprune.errors import CheckpointError
from fxprune.shards.cutting import pieces
from fxprune.shards.fates import Fate
from fxprune.shards.stored import Shard

Item = TypeVar("Item")
PART = ".part"
"""What the name of a file ends in while it is written."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished file is recognised by.

    Attributes:
        size: bytes.
        sha256: digest of all of them, hexadecimal.
    """

    size: int
    sha256: str


def write_shard(shard: Shard, fates: Sequence[Fate], path: Path) -> Written:
    """Write what remains of a file.

    Args:
        shard: the file as it is.
        fates: of its tensors that remain, in the order of their places.
        path: of the new file.

    Raises:
        CheckpointError: the source ended early.
    """
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    try:
        written = _write_part(shard, fates, part)
    except BaseException:
        part.unlink(missing_ok=True)  # half a file is of no use, and a full disk has no room for it
        raise
    part.replace(path)
    return written


def _write_part(shard: Shard, fates: Sequence[Fate], part: Path) -> Written:
    digest, header = hashlib.sha256(), header_of(shard, fates)
    with shard.path.open("rb", buffering=0) as source, part.open("xb", buffering=0) as target:
        size = _write(target, header, digest)
        for piece in ahead(piece for fate in fates for piece in pieces(source, fate)):
            size += _write(target, piece.data, digest)
        os.fsync(target.fileno())
    expected = len(header) + sum(fate.size for fate in fates)
    if size != expected:
        msg = f"{shard.path} was cut to {size} bytes, expected {expected}; was it changed meanwhile?"
        raise CheckpointError(msg)
    return Written(size, digest.hexdigest())


def header_of(shard: Shard, fates: Sequence[Fate]) -> bytes:
    """Length and header of the new file; padded with blanks to a multiple of 8 bytes, as the format asks."""
    entries: dict[str, Any] = {"__metadata__": dict(shard.metadata)} if shard.metadata else {}
    end = 0
    for fate in fates:
        entries[fate.name] = {
            "dtype": fate.stored.dtype,
            "shape": list(fate.shape),
            "data_offsets": [end, end + fate.size],
        }
        end += fate.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def digest_of(path: Path) -> Written:
    """Size and digest of a file that is there."""
    with path.open("rb") as file:
        return Written(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before is used."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item  # type: ignore[misc]


def _write(file: IO[bytes], data: bytes | memoryview, digest: Any) -> int:
    digest.update(data)
    view, done = memoryview(data), 0
    while done < len(view):
        done += file.write(view[done:])
    return done
