"""Threads and processes that use fxprune at the same time: what each makes is what it makes alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from tests.files.nets import call, make

ROOT = Path(__file__).parents[2]
NAMES = ("sequential", "convolutions", "recurrent", "tied", "attention")


def compiled(name: str, scorer: str) -> fxprune.SlimModule:
    """Shuffled data for scoring and repair, where the scorer looks at data."""
    model, (inputs,) = make_alone(name)
    samples = TensorDataset(inputs.repeat(4, *[1] * (inputs.dim() - 1)))
    data = DataLoader(samples, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))
    options: dict[str, Any] = {"data": data, "collect": lambda batch: batch[0]} if scorer == "obs" else {}
    return fxprune.compile(model, {"params": "70%"}, example_inputs=inputs, scorer=scorer, progress=False, **options)


def make_alone(name: str) -> Any:
    """The global seed is one of the things that threads share: it is the test's to set and draw from in one go."""
    with BUILDING:
        return make(name)


BUILDING = threading.Lock()


def through_files(name: str, scorer: str, folder: Path) -> list[torch.Tensor]:
    """Compile, save, load, restore: all weights."""
    slim, (model, inputs), path = compiled(name, scorer), make_alone(name), folder / f"{name}.{scorer}.fxprune"
    fxprune.save(slim, path)
    loaded, restored = fxprune.load(path), fxprune.restore(model, path)
    assert torch.equal(call(loaded, inputs), call(slim, inputs))
    return [*slim.state_dict().values(), *loaded.state_dict().values(), *restored.state_dict().values()]


def together(acts: list[Callable[[], Any]]) -> list[Any]:
    """What each returns, each in a thread of its own."""
    found: dict[int, Any] = {}

    def run(at: int) -> None:
        try:
            found[at] = acts[at]()
        except Exception as error:
            found[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[at] for at in range(len(acts))]


def side_by_side(jobs: list[tuple[str, str]], folder: Path) -> None:
    (folder / "alone").mkdir()
    wanted = [through_files(*job, folder / "alone") for job in jobs]
    found = together([partial(through_files, *job, folder) for job in jobs])
    assert not [each for each in found if isinstance(each, Exception)]
    for one, other in zip(wanted, found, strict=True):
        assert all(map(torch.equal, one, other))


def test_threads_compile_different_models(tmp_path: Path) -> None:
    side_by_side([("sequential", "magnitude"), ("convolutions", "obs"), ("attention", "magnitude")], tmp_path)


@pytest.mark.slow
def test_many_threads_compile_different_models(tmp_path: Path) -> None:
    side_by_side([(name, scorer) for name in NAMES for scorer in ("magnitude", "obs")], tmp_path)


WRITER = """
import sys, torch
import tests.conftest, fxprune
from tests.files.nets import make
model, inputs = make("convolutions")
for turn in range(2):
    slim = fxprune.compile(model, {"params": sys.argv[2]}, example_inputs=inputs, progress=False)
    fxprune.save(slim, sys.argv[1])
    assert fxprune.load(sys.argv[1]).plan.budget["params"] in ("80%", "60%")
"""


def start(path: Path, budget: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(path), budget]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_compile_and_save_to_one_path(tmp_path: Path) -> None:
    path = tmp_path / "slim.fxprune"
    for process in [start(path, budget) for budget in ("80%", "60%")]:
        assert process.communicate(timeout=300)[1] == ""
    slim, (model, inputs) = fxprune.load(path), make("convolutions")
    alone = fxprune.compile(model, {"params": slim.plan.budget["params"]}, example_inputs=inputs, progress=False)
    assert slim.plan == alone.plan
    assert torch.equal(call(slim, inputs), call(alone, inputs))
    assert os.listdir(tmp_path) == [path.name]
