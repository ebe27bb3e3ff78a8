"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fxprune.errors import BackendError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path of the same name in a new folder beside `path`; what is written there takes its place at the end.

    Files beside the one at the path yielded (`companion_name`) are moved first, so that a reader finds either the
    former file or the new one with all that it refers to; companions of the former file are removed last. An exception
    leaves everything as it was.

    Raises:
        BackendError: `path` is a folder, or its folder does not exist.
    """
    path = path.absolute()
    if path.is_dir():
        raise BackendError(f"{path} is a folder: pass the name of a file to write")
    if not path.parent.is_dir():
        raise BackendError(f"the folder {path.parent} does not exist")
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield folder / path.name
        _move(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
