"""A few of the kills of `tests.files.kills`, in a process that has no threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kill(number: int, *names: str) -> str:
    command = [sys.executable, "-m", "tests.files.kills", "--number", str(number), "--seed", "7", *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_while_scoring_and_saving() -> None:
    said = kill(12, "scoring gradnas", "save", "plan", "scores")
    assert said.startswith("scoring gradnas: 3 kills, as it has to be\nsave: 3 kills")


@pytest.mark.slow
def test_killed_at_everything() -> None:
    assert "\n200 kills in" in kill(200)
