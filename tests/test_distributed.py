"""Several processes give what one gives, share the work, and fail together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fxprune.scorer import BUILT_IN

ROOT = Path(__file__).resolve().parents[1]
SCORERS = sorted(BUILT_IN.keys() & {"magnitude", "minitron", "gradnas", "taylor", "fastnas"})
SIZE = 2
SPREAD = ("whole", "sharded", "staged")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in two processes, those that are compared in one too."""
    folder = tmp_path_factory.mktemp("ranks")
    compared = ["shared", "repaired", *SCORERS]
    together = ["exchange", "failing", "locked", *SPREAD, *compared]
    runs = [(["whole", *compared], 0, 1), *((together, rank, SIZE) for rank in range(SIZE))]
    for process in [start(folder, *run) for run in runs]:
        finish(process)
    return folder


def start(folder: Path, cases: list[str], rank: int, size: int, device: str = "cpu") -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.ranks.program"]
    command += [",".join(cases), str(rank), str(size), str(folder), device]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


def results(folder: Path, case: str, size: int) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{case}-{size}-{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.skipif(torch.cuda.device_count() < SIZE, reason="needs two GPUs")
def test_two_gpus_give_the_plan_of_one(tmp_path: Path) -> None:
    """Through NCCL, each rank on a GPU of its own."""
    compared = ["shared", "repaired", *SCORERS]
    together = ["exchange", *SPREAD, *compared]
    runs = [(["whole", *compared], 0, 1), *((together, rank, SIZE) for rank in range(SIZE))]
    for process in [start(tmp_path, *run, device="cuda") for run in runs]:
        finish(process)
    for case in compared:
        (alone,) = results(tmp_path, case, 1)
        assert [each["plan"] for each in results(tmp_path, case, SIZE)] == [alone["plan"]] * SIZE
    (whole,) = results(tmp_path, "whole", 1)
    for each in (found for how in SPREAD for found in results(tmp_path, how, SIZE)):
        for name, values in each["importance"].items():
            np.testing.assert_allclose(values, whole["importance"][name], rtol=1e-5)


@pytest.mark.parametrize("case", ["shared", *SCORERS])
def test_as_many_as_there_are_give_the_same_plan(folder: Path, case: str) -> None:
    (alone,) = results(folder, case, 1)
    for each in results(folder, case, SIZE):
        assert each["plan"] == alone["plan"]
        assert each["importance"].keys() == alone["importance"].keys()


@pytest.mark.parametrize("how", SPREAD)
def test_scores_do_not_depend_on_how_a_model_is_spread(folder: Path, how: str) -> None:
    """Batches are shared, in an uneven number; weights are whole, sharded by FSDP2, or half of the layers on each rank."""
    (alone,) = results(folder, "whole", 1)
    for each in results(folder, how, SIZE):
        assert each["blocks"] == pytest.approx(alone["blocks"], rel=1e-6)
        assert each["importance"].keys() == alone["importance"].keys()
        for name, values in each["importance"].items():
            np.testing.assert_allclose(values, alone["importance"][name], rtol=1e-6)


def test_repaired_weights_are_those_of_one_process(folder: Path) -> None:
    (alone,) = results(folder, "repaired", 1)
    first, *others = results(folder, "repaired", SIZE)
    assert all(each == first for each in others)
    assert first["plan"] == alone["plan"]
    assert first["weights"].keys() == alone["weights"].keys()
    for name, weight in first["weights"].items():
        np.testing.assert_allclose(weight, alone["weights"][name], rtol=1e-5, atol=1e-7)


def test_sums_over_batches_are_the_same_to_the_last_bit(folder: Path) -> None:
    (alone,) = results(folder, "shared", 1)
    assert all(each == alone for each in results(folder, "shared", SIZE))


def test_the_work_is_shared(folder: Path) -> None:
    lines = Counter((folder / f"shared-{SIZE}.log").read_text().splitlines())
    assert lines == Counter({"0 batch": 5, "1 batch": 4, **dict.fromkeys(["0 8", "1 16", "0 32", "1 48", "0 64"], 1)})


def test_the_checkpoint_holds_what_all_ranks_did(folder: Path) -> None:
    """One file, written by rank 0; the work of one process fits it to the byte, apart from how often sums were written."""
    alone, together = (
        {line[17:] for line in (folder / f"shared-{size}.ckpt").read_bytes().splitlines() if b'"count"' not in line}
        for size in (1, SIZE)
    )
    assert alone == together


def test_exchanging(folder: Path) -> None:
    assert [each["mine"] for each in results(folder, "exchange", SIZE)] == [["a", "c", "e"], ["b", "d"]]


def test_a_rank_that_fails_takes_the_others_with_it(folder: Path) -> None:
    first, second = results(folder, "failing", SIZE)
    assert first["error"] == "FxpruneError: rank 1 failed: ValueError: out of luck"
    assert second["error"] == "ValueError: out of luck"


def test_a_checkpoint_that_cannot_be_opened(folder: Path) -> None:
    first, second = results(folder, "locked", SIZE)
    assert first["error"].startswith("the checkpoint")
    assert second["error"].startswith("rank 0 failed: CheckpointError: the checkpoint")


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files cannot be limited")
def test_a_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    """At any moment: all ranks say so at once, none waits; and once it can be written, the same call goes on."""
    cases = [f"full-{moment}" for moment in ("opening", "batch", "32", "scores")]
    processes = [start(tmp_path, [*cases, "shared"], rank, SIZE) for rank in range(SIZE)]
    try:
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            process.kill()  # one that waits for the other
            process.communicate()
    shared = results(tmp_path, "shared", SIZE)
    for case in cases:
        found = results(tmp_path, case, SIZE)
        (first, second), path = [each["error"] for each in found], tmp_path / f"{case}.ckpt"
        assert re.match(rf"the checkpoint {path} cannot be written: .*File too large", first)
        assert second == f"rank 0 failed: CheckpointError: {first}"
        assert [each["kind"] for each in found] == ["CheckpointError", "CheckpointError"]
        assert [each["plan"] for each in found] == [each["plan"] for each in shared]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_in_the_middle_and_started_again(folder: Path) -> None:
    """The plan is that of a run that nobody killed, and nothing that was finished is done again."""
    log = folder / "slow.log"
    process = start(folder, ["slow"], 0, 1)
    deadline = time.monotonic() + 200
    while not (log.exists() and "0 32\n" in log.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = log.read_text().splitlines()
    finish(start(folder, ["slow"], 0, 1))
    after = log.read_text().splitlines()[len(before) :]
    assert before[:9] == ["0 batch"] * 9
    assert after == [f"0 {key}" for key in ("32", "48", "64") if f"0 {key}" not in before[:-1]]
    assert results(folder, "slow", 1) == results(folder, "shared", 1)
