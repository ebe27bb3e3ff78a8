"""Runs that are stopped: the next one takes over what is finished and whole, and ends with the same bytes."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fxprune
from fxprune import CheckpointError, InputError, Plan
from fxprune.shards import apply as module
from fxprune.shards.stored import Shard
from fxprune.shards.writing import Written, write_shard
from tests.shards.helpers import UNIFORM, cut, llama, save

KILLED = """
import os, signal, sys
from pathlib import Path
import tests.conftest
import fxprune
from fxprune.shards import writing
pieces, count = writing.pieces, [0]
def killing(*arguments):
    for piece in pieces(*arguments):
        count[0] += 1
        if count[0] == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece
writing.pieces = killing
fxprune.apply_to_checkpoint(fxprune.Plan.from_json(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3])
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return cut(UNIFORM).plan


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(llama(), tmp_path / "source")


@pytest.fixture
def whole(plan: Plan, source: Path, tmp_path: Path) -> dict[str, str]:
    fxprune.apply_to_checkpoint(plan, source, tmp_path / "whole")
    return digests(tmp_path / "whole")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def counting(monkeypatch: pytest.MonkeyPatch, stop: Callable[[int], bool] = lambda _: False) -> list[str]:
    """Names of the files that are written from now on; Ctrl-C before the one for which `stop` says so."""
    names: list[str] = []

    def write(shard: Shard, *arguments: Any) -> Written:
        if stop(len(names)):
            raise KeyboardInterrupt
        names.append(shard.path.name)
        return write_shard(shard, *arguments)

    monkeypatch.setattr(module, "write_shard", write)
    return names


def test_killed_and_run_again(
    plan: Plan, source: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.json").write_text(plan.to_json())
    target = tmp_path / "cut"
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "plan.json"), str(source), str(target)]
    done = subprocess.run(arguments, check=False, cwd=Path(fxprune.__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    finished = [path.name for path in (tmp_path / ".cut.partial").glob("*.safetensors")]
    assert finished
    assert list((tmp_path / ".cut.partial").glob("*.part"))
    names = counting(monkeypatch)
    made = fxprune.apply_to_checkpoint(plan, source, target)
    assert sorted(made.resumed) == sorted(finished)
    assert not set(names) & set(finished)
    assert digests(target) == whole
    assert not list(tmp_path.glob(".cut.*"))


@pytest.mark.parametrize("after", [0, 2])
def test_interrupted_and_run_again(
    after: int, plan: Plan, source: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(monkeypatch, lambda count: count == after)
    with pytest.raises(KeyboardInterrupt):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    monkeypatch.undo()
    made = fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    assert len(made.resumed) == after
    assert digests(tmp_path / "cut") == whole


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_what_is_finished_is_looked_at_again(
    damage: str, plan: Plan, source: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(monkeypatch, lambda count: count == 2)
    with pytest.raises(KeyboardInterrupt):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    monkeypatch.undo()
    path = next(iter(sorted((tmp_path / ".cut.partial").glob("*.safetensors"))))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(content if damage == "flipped" else content[:-1])
    (tmp_path / ".cut.partial" / "foreign.safetensors").write_bytes(b"not ours")
    assert len(fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut").resumed) == 1
    assert digests(tmp_path / "cut") == whole


def test_stopped_after_the_folder_was_renamed(
    plan: Plan, source: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = module._made

    def stop(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_made", stop)
    with pytest.raises(KeyboardInterrupt):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    monkeypatch.setattr(module, "_made", made)
    names = counting(monkeypatch)
    assert fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut").resumed
    assert not names
    assert digests(tmp_path / "cut") == whole
    assert not list(tmp_path.glob(".cut.*"))


def test_another_plan_does_not_go_on_there(
    plan: Plan, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(monkeypatch, lambda count: count == 1)
    with pytest.raises(KeyboardInterrupt):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    monkeypatch.undo()
    other = cut({"*.gate_proj": 64}).plan
    with pytest.raises(CheckpointError, match=r"belongs to another run: .*plan.*\.cut\.partial"):
        fxprune.apply_to_checkpoint(other, source, tmp_path / "cut")


def test_a_run_that_finished_nothing_leaves_nothing(
    plan: Plan, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(monkeypatch, lambda count: count == 0)
    with pytest.raises(KeyboardInterrupt):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="bytes more, the disk has 1,000 left"):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_of_that_name_is_left_alone(plan: Plan, source: Path, tmp_path: Path) -> None:
    (tmp_path / ".cut.partial").mkdir()
    (tmp_path / ".cut.partial" / "mine.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(InputError, match="not what an interrupted run left"):
            fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    assert (tmp_path / ".cut.partial" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / ".cut.journal").exists()
