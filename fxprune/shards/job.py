"""What an interrupted run left: finished files in a partial folder, and the journal that says which.

The journal holds the size and the digest of every finished file, under its name; a file counts only if it still has both. It
begins with what decides the result (plan, checkpoint, configuration), so that no other run goes on from it. A run that
finished no file leaves nothing behind, and a folder that no run has made is left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from fxprune.errors import CheckpointError, InputError
from fxprune.plan import Plan
from fxprune.shards.fates import Fate
from fxprune.shards.folder import Folder
from fxprune.shards.stored import Shard
from fxprune.shards.writing import Written, digest_of
from fxprune.store import Store

BEGUN, COMPLETE = "begun/", "complete/"
"""Keys of the journal that are no names of files."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs to know before it writes."""

    plan: Plan
    source: Folder
    target: Path
    fates: Mapping[str, Fate]
    config: Mapping[str, Any] | None
    notes: list[str] = field(default_factory=list)

    @property
    def partial(self) -> Path:
        """Where files go until all are there."""
        return self.target.with_name(f".{self.target.name}.partial")

    @property
    def journal(self) -> Path:
        """The file that says which are finished."""
        return self.target.with_name(f".{self.target.name}.journal")

    @property
    def shards(self) -> list[Shard]:
        """Files of which something remains."""
        return [each for each in self.source.shards if self.of(each)]

    def of(self, shard: Shard) -> list[Fate]:
        """Fates of a file's tensors that remain."""
        return [self.fates[each.name] for each in shard.tensors if each.name in self.fates]


def _fingerprint(job: Job) -> dict[str, str]:
    """What decides the result."""
    files = [(each.path.name, *_stamp(each.path), repr(each.tensors)) for each in job.source.shards]
    others = [(name, *_stamp(job.source.path / name)) for name in job.source.others]
    parts = {
        "plan": job.plan.to_json(),
        "checkpoint": repr((files, others, job.source.index)),
        "configuration": json.dumps(job.config),
        "options": repr(sorted((name, fate.name) for name, fate in job.fates.items())),
    }
    return {name: sha256(text.encode()).hexdigest() for name, text in parts.items()}


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def open_journal(job: Job) -> Store:
    """The journal, new or an interrupted run's, locked.

    Raises:
        CheckpointError: it is of another run, in use, or damaged.
    """
    try:
        return Store.open(job.journal, _fingerprint(job))
    except CheckpointError as error:
        what = str(error).partition(". ")[0]
        msg = (
            f"{what}. It is the journal of an interrupted run into {job.target}: if none is under way, delete it together "
            f"with {job.partial.name} to begin anew, or pass another folder"
        )
        raise CheckpointError(msg) from error


def begin(job: Job, store: Store) -> None:
    """Make the partial folder, or take over that of an interrupted run."""
    known = store.get(BEGUN) is not None
    if job.partial.is_symlink() or (job.partial.exists() and not known and any(job.partial.iterdir())):
        msg = f"{job.partial} exists and is not what an interrupted run left; remove it, or pass another folder"
        raise InputError(msg)
    job.partial.mkdir(exist_ok=True)
    if not known:
        store.put(BEGUN, {})


def clear(job: Job, store: Store) -> None:
    """Leave nothing behind of a run that has finished no file."""
    if not any(each.path.name in store.known for each in job.shards):
        if store.get(BEGUN) is not None:
            shutil.rmtree(job.partial, ignore_errors=True)
        job.journal.unlink(missing_ok=True)


def remove_unknown(job: Job, finished: Sequence[str]) -> None:
    """Whatever lies in the partial folder beside finished files: halves, and what other plans left."""
    for path in job.partial.iterdir():
        if path.name not in finished:
            path.unlink()


def is_finished(job: Job, shard: Shard, store: Store) -> bool:
    """Whether the file is there, as the journal says."""
    known, path = store.get(shard.path.name), job.partial / shard.path.name
    if known is None or not path.is_file() or path.stat().st_size != known["size"]:
        return False
    return digest_of(path) == Written(int(known["size"]), str(known["sha256"]))


def check_room(job: Job, missing: Sequence[Shard]) -> None:
    """Raise where the disk has no room for the files that are missing.

    Raises:
        InputError: it has not.
    """
    needed, free = sum(fate.size for each in missing for fate in job.of(each)), shutil.disk_usage(job.partial).free
    if needed > free:
        msg = f"{job.target} needs {needed:,} bytes more, the disk has {free:,} left; free some, or pass another folder"
        raise InputError(msg)
