"""A zip of few members, written in one go and read with suspicion.

Members are stored, not compressed, so that nothing can expand, and their names are a fixed set, so that no name is a path.
What a reader gets is bounded before it is read: the file hands out at most `PIECE` bytes at once, which also bounds the
central directory; what the directory says is what is there (`fxprune.files.layout`); checksums of members are verified as
they are read to their end. Beyond 4 GB the zip is one of 64 bits.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Protocol

import torch

from fxprune.errors import BackendError, CheckpointError
from fxprune.files.layout import sound_members

PIECE = 2**23
"""Bytes that are read or written at once."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that equal content is an equal file."""

_REFUSALS = (
    *(zipfile.BadZipFile, EOFError, struct.error),  # of zipfile
    *(
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
    ),  # of torch, building what is told
)
"""What libraries raise about content that they cannot use."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take these bytes."""


@contextmanager
def writing(path: Path, what: str, needed: int) -> Iterator[zipfile.ZipFile]:
    """A new zip, which takes the place of the file at `path` once it is whole and on the disk.

    Args:
        path: the file; left as it was if anything fails.
        what: what is written, for errors.
        needed: bytes that it is going to have, about; for errors.

    Raises:
        CheckpointError: it cannot be written.
    """
    from fxprune.backends.atomic import replacing

    try:
        with (
            replacing(path, needed) as made,
            zipfile.ZipFile(made, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            yield archive
    except (OSError, BackendError) as error:
        raise not_saved(what, path, error) from error


def not_saved(what: str, path: Path, error: OSError | BackendError) -> CheckpointError:
    """The error that says why there is no new file."""
    why = f" to {path}: {error.strerror or error}" if isinstance(error, OSError) else f": {error}"
    return CheckpointError(f"{what} cannot be saved{why}. A file that was there before is as it was")


@contextmanager
def adding(archive: zipfile.ZipFile, name: str) -> Iterator[Sink]:
    """Where a new member's bytes go."""
    member = zipfile.ZipInfo(name, _DATE)
    member.external_attr = 0o100644 << 16  # a regular file
    with archive.open(member, "w", force_zip64=True) as file:
        yield file


class _Bounded:
    """A file that gives no more than `PIECE` bytes at once; reading to the end is reading to there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if count > PIECE:
            raise CheckpointError(f"it speaks of {count:,} bytes where at most {PIECE:,} can be")
        found = self._file.read(PIECE + 1 if count < 0 else count)
        if len(found) > PIECE:
            raise CheckpointError("its directory is too long")
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class Archive:
    """An open zip whose members are known to be sound in number, name, size and place."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
        """Take members that have been found sound."""
        self._archive, self._members = archive, members

    def __contains__(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._members

    def size(self, name: str) -> int:
        """Bytes of a member.

        Raises:
            CheckpointError: there is no such member.
        """
        if name not in self._members:
            raise CheckpointError(f"it has no {name}")
        return self._members[name].file_size

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A member to be read, at most `PIECE` bytes at once."""
        self.size(name)
        with self._archive.open(self._members[name]) as file:
            yield file

    def read(self, name: str, *, longest: int) -> bytes:
        """All of a member.

        Raises:
            CheckpointError: there is no such member, or it is longer.
        """
        size = self.size(name)
        if size > longest:
            raise CheckpointError(f"its {name} has {size:,} bytes; it may have {longest:,}")
        with self.open(name) as file:
            pieces = list(iter(lambda: file.read(PIECE), b""))
        return b"".join(pieces)


@contextmanager
def reading(path: Path, names: Collection[str]) -> Iterator[Archive]:
    """A zip to be read.

    Args:
        path: of a regular file; where it is a link, what it leads to counts.
        names: members that there may be; some may be missing.

    Raises:
        CheckpointError: it is no such zip; also for whatever is found wrong while it is open.
    """
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(_Bounded(file)) as archive:
                yield Archive(archive, sound_members(archive, file, names, size))
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no intact file of fxprune: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except _REFUSALS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        msg = f"{path} is no intact file of fxprune: {type(error).__name__}: {str(error)[:300]}"
        raise CheckpointError(msg) from error


def read_file(path: Path, *, longest: int, most: int | None = None) -> bytes:
    """All of a regular file, or its first bytes.

    Args:
        path: the file.
        longest: bytes that it may have.
        most: bytes to read; None for all.

    Raises:
        CheckpointError: there is none, or it is longer.
    """
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > longest:
                raise CheckpointError(f"it has {size:,} bytes; it may have {longest:,}")
            return file.read(size if most is None else most)
    except FileNotFoundError:
        raise CheckpointError("there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror}") from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file; opening anything else must neither wait nor act."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointError("it is no regular file")
        yield file
