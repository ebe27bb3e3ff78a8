"""The examples run, as a user runs them, to their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = f"""import runpy

kept = runpy.run_path({str(ROOT / "fxprune" / "cli" / "vision_operators.py")!r})
kept["declare_vision_operators"]()
"""
"""What every process imports first: torchvision's operators, where its own extension does not load; fxprune stays out of it."""


def run(script: str, *arguments: str, folder: Path) -> str:
    (folder / "sitecustomize.py").write_text(SITE)
    paths = [str(folder), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "examples" / script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_language_model_is_pruned_and_loaded_without_fxprune(tmp_path: Path) -> None:
    out = tmp_path / "small"
    told = run("prune_language_model.py", "--steps", "4", "--out", str(out), folder=tmp_path)
    assert "loaded by Transformers alone: 4 layers" in told
    assert {"config.json", "model.safetensors"} <= {each.name for each in out.iterdir()}
