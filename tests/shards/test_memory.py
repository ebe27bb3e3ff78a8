"""The peak memory of cutting: bounded by pieces, far below the size of a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fxprune
from fxprune import Plan

MEASURED = """
import sys
from pathlib import Path
import fxprune
def peak():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
before = peak()
fxprune.apply_to_checkpoint(fxprune.Plan.from_json(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3])
print((peak() - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_is_bounded_by_pieces(tmp_path: Path) -> None:
    """Three tensors of 256 MiB, cut along rows, along columns and not at all: five pieces of 32 MiB at most."""
    shape = (8192, 16384)
    source = tmp_path / "source"
    source.mkdir()
    save_file({name: torch.zeros(shape, dtype=torch.int16) for name in "abc"}, source / "model.safetensors")
    halves = {"a": {0: list(range(0, 8192, 2))}, "b": {1: list(range(0, 16384, 2))}}
    plan = Plan({}, halves, {}, signature=dict.fromkeys("abc", (shape, "int16")))
    (tmp_path / "plan.json").write_text(plan.to_json())
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "plan.json"), str(source), str(tmp_path / "cut")]
    root = Path(fxprune.__file__).parents[1]
    done = subprocess.run(arguments, check=True, cwd=root, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) < 5 * (32 << 20) + (16 << 20)
