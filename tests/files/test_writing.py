"""A file is replaced whole or not at all: full disks, errors, kills, several writers."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune import CheckpointError
from fxprune.files.tensors import Declared, read_tensors, write_tensors
from tests.files.nets import compiled

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, torch
import tests.conftest, fxprune
slim = fxprune.load(sys.argv[1])
slim.register_buffer("ballast", torch.zeros(2_000_000))
{act}
"""


def start(act: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that has the file's module, with 8 MB more, and does something with it; says when it begins."""
    command = [sys.executable, "-c", WRITER.format(act=act), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fxprune.save(compiled("sequential")[0], tmp_path / "slim.fxprune")
    return tmp_path / "slim.fxprune"


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_leaves_the_former_file(after: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former, count = path.read_bytes(), 0
    write = write_tensors

    def full(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sys.modules["fxprune.files.save"], "write_tensors", full)
    slim = compiled("sequential")[0]
    if after < 2:
        with pytest.raises(
            CheckpointError, match=r"No space left on device: \d.* bytes are needed, .* left; free some"
        ):
            fxprune.save(slim, path)
        assert path.read_bytes() == former
    else:
        fxprune.save(slim, path)
    assert os.listdir(path.parent) == [path.name]


def test_a_file_may_not_grow_that_far(path: Path) -> None:
    """The system refuses to write, in the middle of the weights."""
    former, slim = path.read_bytes(), compiled("sequential")[0]
    slim.register_buffer("ballast", torch.zeros(2_000_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"File too large. A file that was there before is as it was"):
            fxprune.save(slim, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == former
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_or_no_folder(tmp_path: Path) -> None:
    slim = compiled("sequential")[0]
    with pytest.raises(CheckpointError, match="is a folder"):
        fxprune.save(slim, tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        fxprune.save(slim, tmp_path / "none" / "slim.fxprune")


def test_an_interrupt_leaves_the_former_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fxprune.files.save"], "write_tensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fxprune.save(compiled("sequential")[0], path)
    assert path.read_bytes() == former
    assert os.listdir(path.parent) == [path.name]


def test_a_killed_writer_leaves_a_whole_file(path: Path) -> None:
    act = "print('ready', flush=True)\nwhile True: fxprune.save(slim, sys.argv[1])"
    process = start(act, str(path))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(5):
        time.sleep(0.03)
        fxprune.load(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert fxprune.load(path).plan.widths


@pytest.mark.slow
def test_two_processes_save_to_one_path(path: Path) -> None:
    act = "slim.ballast.fill_(int(sys.argv[2]))\nfor _ in range(3): fxprune.save(slim, sys.argv[1])"
    processes = [start(act, str(path), str(number)) for number in (1, 2)]
    for process in processes:
        assert process.communicate(timeout=120)[1] == ""
    ballast = fxprune.load(path).ballast
    assert isinstance(ballast, torch.Tensor)
    assert len(ballast.unique()) == 1
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.slow
def test_beyond_four_gigabytes(tmp_path: Path) -> None:
    slim = compiled("sequential")[0]
    slim.register_buffer("ballast", torch.zeros(2**32 + 5, dtype=torch.uint8))
    assert isinstance(slim.ballast, torch.Tensor)
    slim.ballast[-1] = 7
    fxprune.save(slim, tmp_path / "slim.fxprune")
    del slim.ballast
    ballast = fxprune.load(tmp_path / "slim.fxprune").ballast
    assert isinstance(ballast, torch.Tensor)
    assert (len(ballast), int(ballast[-1])) == (2**32 + 5, 7)


def test_tensors_are_read_as_they_are_written(tmp_path: Path) -> None:
    numbers = {"a": torch.randn(3, 4), "b": torch.zeros(0, 5), "c": torch.tensor(True), "d": torch.randn(4, 3).T}
    with (tmp_path / "t").open("wb") as sink:
        write_tensors(sink, numbers)
    declared = [Declared(name, each.dtype, tuple(each.shape)) for name, each in numbers.items()]
    with (tmp_path / "t").open("rb") as file:
        found = read_tensors(file, (tmp_path / "t").stat().st_size, declared, "t")
    assert all(torch.equal(found[name], each) for name, each in numbers.items())
    assert isinstance(nn.Parameter(found["a"]), nn.Parameter)
