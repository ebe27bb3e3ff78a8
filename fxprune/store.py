"""Finished work, by key: in memory, and in a file from which an interrupted run goes on.

The file (`compile(..., checkpoint="search.ckpt")`) is append-only text: a first line that says what it is, a header with
the fingerprint of the run, then one record a line (`fxprune.records`), each written and flushed to the disk before the
work counts as finished. So a process that is killed loses what it was doing and nothing else: half a line at the end is
cut off when the file is opened again. Damage anywhere else is an error, as is another fingerprint (another model, scorer,
data, seed, ...): finished work of something else is never used.

One process at a time has the file: it is locked for as long as it is open, and the lock goes with the process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

from fxprune.errors import CheckpointError
from fxprune.records import LONGEST, Values, decode, encode, seal, unseal

MAGIC = b"fxprune checkpoint "
VERSION = b"1"
FIRST_LINE = MAGIC + VERSION + b"\n"


class Store:
    """Values by key: `get`, `put`, and `recall`, which computes what is not there.

    Values are named arrays of float64 or int64, and what JSON can say. What comes back is the same whether it was
    computed in this run or read from the file: arrays that cannot be written to, lists for tuples.

    Example:
        >>> store = Store()
        >>> store.recall("a", lambda: {"loss": 0.5})
        {'loss': 0.5}
        >>> store.recall("a", lambda: {"loss": 0.7})
        {'loss': 0.5}
    """

    def __init__(self) -> None:
        """Remember in memory alone."""
        self._known: dict[str, Values] = {}
        self._file: IO[bytes] | None = None
        self._path = Path()

    @classmethod
    def open(cls, path: str | os.PathLike[str], fingerprint: Mapping[str, str]) -> Self:
        """Remember in a file too, and go on from what it holds.

        Args:
            path: the file; made if it does not exist.
            fingerprint: what decides the results, name of each part -> its digest.

        Raises:
            CheckpointError: the file is no checkpoint, is damaged, belongs to another run, or is in use.
        """
        store, file = cls(), _open(Path(path))
        try:
            for key, values in _read(file, Path(path), fingerprint):
                store._known[key] = values
        except BaseException:
            file.close()
            raise
        store._file, store._path = file, Path(path)
        return store

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file, if there is one, for others to use; what is remembered stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def known(self) -> Mapping[str, Values]:
        """Everything that is remembered."""
        return dict(self._known)

    def get(self, key: str) -> Values | None:
        """What is remembered under a key, or None."""
        found = self._known.get(key)
        return None if found is None else dict(found)

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        """Remember; with a file, on the disk once this returns. The last value put under a key counts.

        Raises:
            TypeError: a value is neither an array of float64 or int64 nor JSON.
            CheckpointError: the file cannot be written; it holds what was put before.
        """
        line = encode(key, values)
        if self._file is not None:
            _append(self._file, self._path, line)
        self._known[key] = decode(line[17:-1])[1]

    def adopt(self, known: Mapping[str, Values]) -> None:
        """Remember what another store knows."""
        self._known.update(known)

    def recall(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> Values:
        """What is remembered under a key, computed and put there first if need be."""
        if key not in self._known:
            self.put(key, compute())
        return dict(self._known[key])


def _open(path: Path) -> IO[bytes]:
    """The file, locked."""
    try:
        file = path.open("r+b" if path.exists() else "x+b")
    except OSError as error:
        msg = f"the checkpoint {path} cannot be opened: {error.strerror or error}"
        raise CheckpointError(msg) from error
    try:
        _lock(file)
    except OSError as error:
        file.close()
        msg = f"the checkpoint {path} is in use by another process; wait for it, or pass another path"
        raise CheckpointError(msg) from error
    return file


def _lock(file: IO[bytes]) -> None:
    """Lock for as long as the file is open.

    Raises:
        OSError: another process has it.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(2**62)  # a byte that is never written: others may read what is
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(file: IO[bytes], path: Path, fingerprint: Mapping[str, str]) -> list[tuple[str, Values]]:
    """The file's records; leaves the file ready to be appended to, with its header and without half a line."""
    first = file.readline(LONGEST)
    if first != FIRST_LINE:
        _refuse_others(first, path)
        _restart(file, path, fingerprint)
        return []
    lines = _whole_lines(file, path)
    if not lines:
        _restart(file, path, fingerprint)
        return []
    _compare(lines[0], path, fingerprint)
    try:
        return [decode(line) for line in lines[1:]]
    except CheckpointError as error:
        raise _damaged(path, str(error)) from error


def _whole_lines(file: IO[bytes], path: Path) -> list[bytes]:
    """The contents of all lines; a last one that is not whole is cut off."""
    found: list[bytes] = []
    while True:
        start = file.tell()
        line = file.readline(LONGEST + 1)
        content = unseal(line)
        if content is not None:
            found.append(content)
            continue
        if file.read(1):
            raise _damaged(path, f"line {len(found) + 2}, at byte {start:,}, does not match its checksum")
        file.seek(start)
        file.truncate()
        return found


def _restart(file: IO[bytes], path: Path, fingerprint: Mapping[str, str]) -> None:
    file.seek(0)
    file.truncate()
    _append(file, path, FIRST_LINE + seal(json.dumps(dict(fingerprint)).encode()))


def _append(file: IO[bytes], path: Path, line: bytes) -> None:
    """Write at the end, and wait until it is on the disk; what cannot be written whole is taken back.

    Raises:
        CheckpointError: it cannot be written.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        _write(file.fileno(), line)  # past the buffer, which would keep what it could not write, and try again
        os.fsync(file.fileno())
    except BaseException as error:  # whatever it is, half a line must not stay before the next one
        file.truncate(end)
        if not isinstance(error, OSError):
            raise
        from fxprune.backends.atomic import reason

        why = reason(error, path, len(line))
        msg = f"the checkpoint {path} cannot be written: {why}. It holds what was finished, for the same call to go on from"
        raise CheckpointError(msg) from error


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _refuse_others(first: bytes, path: Path) -> None:
    """Only what is empty or half of the first line is begun anew; any other file is somebody's."""
    if FIRST_LINE.startswith(first):
        return
    what = (
        f"was written by another version of fxprune ({first[len(MAGIC) :].strip().decode(errors='replace')!r})"
        if first.startswith(MAGIC)
        else "is no checkpoint of fxprune"
    )
    msg = f"{path} {what}, and is left as it is: pass another path as checkpoint="
    raise CheckpointError(msg)


def _compare(header: bytes, path: Path, fingerprint: Mapping[str, str]) -> None:
    try:
        stored = json.loads(header)
        names = sorted(stored.keys() | fingerprint.keys())
    except (ValueError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read: {error}") from error
    differing = [name for name in names if stored.get(name) != fingerprint.get(name)]
    if differing:
        hint = "; a loader that shuffles gives the same batches only if its generator is seeded" * ("data" in differing)
        msg = (
            f"the checkpoint {path} belongs to another run: {', '.join(differing)} "
            f"{'differs' if len(differing) == 1 else 'differ'}{hint}. Pass another path as checkpoint=, or delete the file"
        )
        raise CheckpointError(msg)


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint {path} is damaged: {what}. Delete it to begin anew")
