"""A disk that fills up: the error says what is needed and left, the former file is as it was, nothing else is left.

On a small disk of the tests' own where one may be mounted; everywhere by an `fsync` that says so, as disks that allocate late
do.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune import BackendError, CheckpointError, Scores
from fxprune.cli.output import write_weights
from fxprune.shards import apply as sharded
from tests.files.nets import compiled, sequential
from tests.shards.helpers import UNIFORM, cut, llama
from tests.shards.helpers import save as save_checkpoint

SAID = (
    r"cannot be .*No space left on device: [\d,]+ bytes are needed, .* has [\d,]+ left; free some, or pass another path"
)


@functools.cache
def uniform() -> fxprune.Plan:
    """A plan for the small Llama."""
    return cut(UNIFORM).plan


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Take up all but so many bytes."""
    file = disk / "filler"
    file.write_bytes(b"\0" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - left))
    return file


def large() -> fxprune.SlimModule:
    """A slim module with two megabytes more."""
    slim = compiled("sequential")[0]
    slim.register_buffer("ballast", torch.zeros(500_000))
    return slim


def big_scores() -> Scores:
    return Scores("mine", {"0": np.ones(200_000)})


SAVERS: dict[str, Callable[[Path], object]] = {
    "model": lambda path: fxprune.save(large(), path),
    "plan": lambda path: compiled("convolutions")[0].plan.save(path),
    "scores": lambda path: big_scores().save(path),
}


@pytest.mark.parametrize("what", SAVERS)
def test_a_full_disk_leaves_the_former_file(what: str, disk: Path) -> None:
    path = disk / "file"
    path.write_bytes(b"former")
    filler = fill(disk, 0)
    with pytest.raises(CheckpointError, match=SAID) as caught:
        SAVERS[what](path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("A file that was there before is as it was")
    assert path.read_bytes() == b"former"
    assert set(disk.iterdir()) == {path, filler}


def test_weights_and_artifacts(disk: Path) -> None:
    path = disk / "file"
    path.write_bytes(b"former")
    filler = fill(disk, 4096)
    with pytest.raises(BackendError, match="cannot be written"):
        write_weights(large(), path)
    with pytest.raises(BackendError, match=r"cannot be written: No space left on device: .* has [\d,]+ left"):
        fxprune.lower(compiled("convolutions")[0], "onnx", path)
    assert path.read_bytes() == b"former"
    assert set(disk.iterdir()) == {path, filler}


@dataclass
class Wide:
    """Four evaluations, each of which takes twenty kilobytes to remember."""

    done: list[str] = field(default_factory=list, compare=False)
    name: str = "wide"
    needs: frozenset[str] = frozenset()

    def score(self, context: fxprune.Context) -> Scores:
        def compute(key: str) -> dict[str, Any]:
            self.done.append(key)
            return {"numbers": np.random.default_rng(int(key)).random(2_000)}

        found = context.evaluate(["1", "2", "3", "4"], compute, "evaluating")
        return Scores(self.name, {"0": sum(each["numbers"] for each in found.values())[:64]})


def scoring(path: Path | None) -> tuple[fxprune.Plan, list[str]]:
    """The plan, and what was evaluated for it."""
    model, inputs = sequential_model()
    scorer = Wide()
    slim = fxprune.compile(model, "50%", example_inputs=inputs, scorer=scorer, checkpoint=path, progress=False)
    return slim.plan, scorer.done


def sequential_model() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return sequential()


def test_a_scoring_checkpoint_keeps_what_was_finished(disk: Path) -> None:
    wanted, _ = scoring(None)
    filler, path = fill(disk, 60_000), disk / "search.ckpt"
    with pytest.raises(CheckpointError, match=SAID):
        scoring(path)
    assert set(disk.iterdir()) == {filler, path}
    filler.unlink()
    plan, done = scoring(path)
    assert plan == wanted
    assert done == ["3", "4"]


def test_a_sharded_checkpoint_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, source = uniform(), save_checkpoint(llama(), tmp_path / "source")
    whole = fxprune.apply_to_checkpoint(plan, source, tmp_path / "whole", progress=False)
    filler = fill(disk, whole.size // 2)
    monkeypatch.setattr(sharded, "check_room", lambda *_: None)  # another process takes the room meanwhile
    with pytest.raises(CheckpointError, match=SAID + r"\. Files that are finished are kept"):
        fxprune.apply_to_checkpoint(plan, source, disk / "cut", progress=False)
    assert {each.name for each in disk.iterdir()} == {"filler", ".cut.partial", ".cut.journal"}
    assert not [each for each in (disk / ".cut.partial").iterdir() if each.suffix != ".safetensors"]
    filler.unlink()
    assert fxprune.apply_to_checkpoint(plan, source, disk / "cut", progress=False).resumed
    assert [each.name for each in disk.iterdir()] == ["cut"]
    for file in (tmp_path / "whole").iterdir():
        assert (disk / "cut" / file.name).read_bytes() == file.read_bytes()


def full(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Have `fsync` say that the disk is full, once it has been called so often."""
    calls, sync = [after], os.fsync

    def fail(descriptor: int) -> None:
        calls[0] -= 1
        if calls[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    return calls


@pytest.mark.parametrize("what", SAVERS)
def test_a_disk_that_says_so_late(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"former")
    full(monkeypatch, 0)
    with pytest.raises(CheckpointError, match=SAID):
        SAVERS[what](path)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("after", range(6))
def test_a_checkpoint_on_a_disk_that_says_so_late(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header, four evaluations, the scores: what could not be written whole is not there at all."""
    full(monkeypatch, after)
    with pytest.raises(CheckpointError, match=SAID):
        scoring(tmp_path / "search.ckpt")
    monkeypatch.undo()
    lines = (tmp_path / "search.ckpt").read_bytes().splitlines()
    assert len(lines) == (after + 1 if after else 0)
    plan, done = scoring(tmp_path / "search.ckpt")
    assert plan == scoring(None)[0]
    assert len(done) == 4 - min(max(after - 1, 0), 4)


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_a_sharded_checkpoint_on_a_disk_that_says_so_late(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, source = uniform(), save_checkpoint(llama(), tmp_path / "source")
    full(monkeypatch, after)
    with pytest.raises(CheckpointError) as caught:
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut", progress=False)
    assert re.search(SAID, str(caught.value))
    assert not (tmp_path / "cut").exists()
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut", progress=False)
    assert not list(tmp_path.glob(".cut*"))
