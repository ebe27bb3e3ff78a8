"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fxprune.errors import BackendError

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What the system says of a disk that is full, or of a user who has too much on it."""


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """A path of the same name in a new folder beside `path`; what is written there takes its place at the end.

    Files beside the one at the path yielded (`companion_name`) are moved first, so that a reader finds either the
    former file or the new one with all that it refers to; companions of the former file are removed last. An exception
    leaves everything as it was.

    Args:
        path: the file.
        needed: bytes that it is going to have, for the error where the disk is full.

    Raises:
        BackendError: `path` is a folder, its folder does not exist, or the disk is full.
    """
    path = path.absolute()
    if path.is_dir():
        raise BackendError(f"{path} is a folder: pass the name of a file to write")
    if not path.parent.is_dir():
        raise BackendError(f"the folder {path.parent} does not exist")
    try:
        with _folder_beside(path) as folder:
            yield folder / path.name
            _move(folder, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BackendError(f"{path} cannot be written: {reason(error, path, needed)}") from error


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reason(error: OSError, path: Path, needed: int | None = None) -> str:
    """Why something cannot be written; of a full disk also what is needed, what is left, and what to do.

    Example:
        >>> reason(OSError(errno.EFBIG, "File too large"), Path("slim.fxprune"))
        'File too large'
    """
    what = error.strerror or str(error)
    if error.errno not in FULL:
        return what
    folder = path.absolute().parent
    needs = "" if needed is None else f"{needed:,} bytes are needed, "
    return f"{what}: {needs}{folder} has {shutil.disk_usage(folder).free:,} left; free some, or pass another path"


def companion_name(path: Path) -> str:
    """A new name for a file that the one at `path` refers to; never that of a former companion, which stays valid."""
    return f"{path.name}.{secrets.token_hex(8)}.data"


def _move(folder: Path, path: Path) -> None:
    """Move the files of `folder` beside `path`, the one named like it last, and remove former companions."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    assert path.name in {file.name for file in files}, f"nothing was written for {path}"
    for file in files:
        flush(file)
        file.replace(path.parent / file.name)
    flush(path.parent)
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    moved = {file.name for file in files}
    for file in path.parent.iterdir():
        if pattern.fullmatch(file.name) and file.name not in moved:
            file.unlink()


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() and os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
