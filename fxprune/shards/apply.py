"""A checkpoint on disk, cut by a plan: file by file, in little memory, to go on with where it was stopped.

    .OUT.partial/        files that are finished; what is being written ends in .part
    .OUT.journal         which are, with sizes and digests; locked while a run has it (`fxprune.store`)
    OUT/                 the folder of files, renamed once everything is in it and on the disk

A run that is stopped, whatever stops it, loses the file that it was writing. The next one with the same plan and checkpoint
takes over what the journal has, if sizes and digests are still the same, and makes the rest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

from fxprune.backends.atomic import flush, reason
from fxprune.errors import CheckpointError, InputError
from fxprune.plan import Plan
from fxprune.progress import track
from fxprune.shards.configuration import new_config
from fxprune.shards.fates import Fate, decide
from fxprune.shards.folder import Folder, read_folder
from fxprune.shards.job import COMPLETE, Job, begin, check_room, clear, is_finished, open_journal, remove_unknown
from fxprune.shards.writing import write_shard
from fxprune.store import Store

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class CutCheckpoint:
    """What `apply_to_checkpoint` made.

    Attributes:
        path: the new folder.
        size: bytes of its safetensors files.
        original: bytes of those it was cut from.
        files: names of its safetensors files.
        resumed: those that an interrupted run had finished.
        notes: what the user should know.
    """

    path: Path
    size: int
    original: int
    files: tuple[str, ...]
    resumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def apply_to_checkpoint(
    plan: Plan,
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    keep_config: bool = False,
    extra: Sequence[str] = (),
    any_dtype: bool = False,
    progress: bool = True,
) -> CutCheckpoint:
    """Cut a checkpoint of safetensors files, sharded or not, as a plan says, without loading the model.

    Args:
        plan: made on a model with these tensors, on the meta device if need be (`fxprune.plan`).
        source: folder with `model.safetensors`, or with shards and `model.safetensors.index.json`.
        target: folder to be made; it appears whole, once all is done.
        keep_config: copy config.json as it is. Otherwise, where the plan changes widths or the number of layers, it is
            rewritten, and it is an error if the configuration cannot say them.
        extra: names or `fnmatch` patterns of tensors that the plan's model does not have, to be kept as they are.
        any_dtype: whether types may differ from those that the plan was made with; shapes may not.
        progress: show on the terminal how far it is.

    Returns:
        What was made. Types, file names and the order of tensors are those of the source; layers that follow a dropped one
        are renumbered; tokenizer and other small files are copied along. Memory is bounded by some pieces of 32 MiB, or by
        twice a tensor whose rows are wider than that.

    Raises:
        InputError: there is no checkpoint, the target is the source, holds files, or has no room.
        CheckpointError: the checkpoint is damaged, the plan is not of it (names the tensor, expected and found), or its
            configuration cannot say the widths; also where the disk is full.

    A run that is interrupted or killed goes on when called again in the same way: finished files are recognised by their
    size and digest.
    """
    if not isinstance(plan, Plan):
        msg = f"apply_to_checkpoint takes a Plan first, got a {type(plan).__name__}; slim.plan, or Plan.from_json(text)"
        raise InputError(msg)
    folder, goal = read_folder(Path(source)), Path(target).absolute()
    tensors = [each for shard in folder.shards for each in shard.tensors]
    fates = decide(plan, tensors, extra=extra, any_dtype=any_dtype)
    _check_target(folder, goal)
    config, notes = _config(plan, folder, fates, keep=keep_config)
    job = Job(plan, folder, goal, fates, config, notes)
    with open_journal(job) as store:
        try:
            made = _resume(job, store) or _run(job, store, progress=progress)
        except OSError as error:
            told = _explained(job, store, error)
            clear(job, store)
            raise told from error
        except BaseException:
            clear(job, store)
            raise
    job.journal.unlink(missing_ok=True)
    return made


def _explained(job: Job, store: Store, error: OSError) -> CheckpointError:
    """Why the folder cannot be made: a full disk, most often."""
    missing = sum(fate.size for shard in job.shards if shard.path.name not in store.known for fate in job.of(shard))
    kept = any(shard.path.name in store.known for shard in job.shards)
    what = "Files that are finished are kept, and the same call goes on from there" if kept else "Nothing of it is left"
    return CheckpointError(f"{job.target} cannot be made: {reason(error, job.target, missing)}. {what}")


def _check_target(source: Folder, target: Path) -> None:
    if target.exists() and target.samefile(source.path):
        msg = f"{target} is the checkpoint itself; pass another folder"
        raise InputError(msg)
    if not target.parent.is_dir():
        msg = f"the folder {target.parent} does not exist; make it first"
        raise InputError(msg)
    done = target.with_name(f".{target.name}.journal").exists()
    if target.exists() and not (target.is_dir() and (done or not any(target.iterdir()))):
        msg = f"{target} exists and is not an empty folder; pass another one, or remove it"
        raise InputError(msg)


def _config(
    plan: Plan, source: Folder, fates: Mapping[str, Fate], *, keep: bool
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The new configuration, None where the file is copied as it is."""
    notes = [f"not copied: {', '.join(source.left)}"] if source.left else []
    if keep or CONFIG not in source.others or not (plan.dropped or any(each.slices for each in fates.values())):
        return None, notes
    return new_config(plan, source.path, {each.name: each.shape for each in fates.values()}), notes


def _resume(job: Job, store: Store) -> CutCheckpoint | None:
    """What a run had finished that was stopped after the folder had been renamed, before the journal had gone."""
    if not job.target.exists() or not any(job.target.iterdir()):
        return None
    if store.get(COMPLETE) is None or job.partial.exists():
        msg = f"{job.target} exists and is not what an interrupted run left; pass another folder, or remove it"
        raise InputError(msg)
    return _made(job, [each.path.name for each in job.shards], job.target)


def _run(job: Job, store: Store, *, progress: bool) -> CutCheckpoint:
    begin(job, store)
    resumed = [each.path.name for each in job.shards if is_finished(job, each, store)]
    remove_unknown(job, resumed)
    missing = [each for each in job.shards if each.path.name not in resumed]
    check_room(job, missing)
    for shard in track(missing, "cutting", len(missing)) if progress else missing:
        written = write_shard(shard, job.of(shard), job.partial / shard.path.name)
        flush(job.partial)
        store.put(shard.path.name, {"size": written.size, "sha256": written.sha256})
    _write_others(job)
    flush(job.partial)
    store.put(COMPLETE, {})
    job.partial.replace(job.target)
    flush(job.target.parent)
    return _made(job, resumed, job.target)


def _write_others(job: Job) -> None:
    """Index, configuration and what is copied along, each written whole."""
    for name in job.source.others:
        if name == CONFIG and job.config is not None:
            _write_json(job.partial / name, job.config)
        else:
            _copy(job.source.path / name, job.partial / name)
    if job.source.index is not None:
        _write_json(job.partial / job.source.index, _index(job))


def _index(job: Job) -> dict[str, Any]:
    metadata = {**job.source.metadata, "total_size": sum(each.size for each in job.fates.values())}
    if "total_parameters" in metadata:  # as Transformers writes it: elements of all tensors of the checkpoint
        metadata["total_parameters"] = sum(prod(each.shape) for each in job.fates.values())
    weight_map = {fate.name: shard.path.name for shard in job.shards for fate in job.of(shard)}
    return {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    flush(path)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    flush(target)


def _made(job: Job, resumed: Sequence[str], path: Path) -> CutCheckpoint:
    files = tuple(each.path.name for each in job.shards)
    size = sum((path / name).stat().st_size for name in files)
    original = sum(each.path.stat().st_size for each in job.source.shards)
    return CutCheckpoint(path, size, original, files, tuple(resumed), tuple(job.notes))
