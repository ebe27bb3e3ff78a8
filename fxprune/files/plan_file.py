"""A plan as a file of its own."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from fxprune.errors import BackendError, CheckpointError
from fxprune.files.archive import not_saved, read_file, reading
from fxprune.files.content import MEMBERS, PLAN
from fxprune.plan import LONGEST, Plan

_ZIP = b"PK\x03\x04"


def save_plan(plan: Plan, path: str | PathLike[str]) -> None:
    """Write a plan as JSON, whole or not at all.

    Raises:
        CheckpointError: there can be no such file.
    """
    from fxprune.backends.atomic import replacing

    try:
        content = plan.to_json().encode() + b"\n"
        with replacing(Path(path), len(content)) as made:
            made.write_bytes(content)
    except (BackendError, OSError) as error:
        raise not_saved("the plan", Path(path), error) from error


def load_plan(path: str | PathLike[str]) -> Plan:
    """Read the plan of a JSON file or of a whole slim model.

    Raises:
        CheckpointError: there is no such file, or it holds no plan.
    """
    path = Path(path)
    if is_archive(path):
        with reading(path, MEMBERS) as archive:
            return Plan.from_json(archive.read(PLAN, longest=LONGEST))
    try:
        return Plan.from_json(read_file(path, longest=LONGEST))
    except CheckpointError as error:
        msg = f"{path} holds no plan: {error}"
        raise CheckpointError(msg) from error


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip does.

    Raises:
        CheckpointError: there is no such file, or it is no regular one.
    """
    try:
        return read_file(path, longest=2**62, most=len(_ZIP)) == _ZIP
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
