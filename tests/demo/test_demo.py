from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from fxprune.backends import Timing
from fxprune.cli import main
from fxprune.demo import Settings, run_demo

FILES = {
    "original.onnx",
    "pruned.onnx",
    "model.onnx",
    "plan.json",
    "weights.safetensors",
    "report.txt",
    "report.json",
    "widths.png",
}


def test_short_demo_writes_all_it_promises(tmp_path: Path) -> None:
    timing = Timing(budget_s=0.2, min_samples=6)
    settings = Settings(out=tmp_path, epochs=1, fine_tune_epochs=1, side=8, batches=(1,), timing=timing)
    console = Console(record=True, width=80)
    result = run_demo(settings, console)
    original, pruned, tuned = result.stages
    assert pruned.flops <= 0.5 * original.flops
    assert (pruned.flops, pruned.params, pruned.memory) == (tuned.flops, tuned.params, tuned.memory)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    shown = console.export_text()
    assert f"{tuned.accuracy:.2%}" in shown
    assert f"{tuned.accuracy:.2%}" in (tmp_path / "report.txt").read_text()
    data = json.loads((tmp_path / "report.json").read_text())
    assert [stage["flops"] for stage in data["stages"]] == [original.flops, pruned.flops, tuned.flops]


@pytest.mark.slow
def test_full_demo_keeps_its_accuracy(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path)]) == 0
    original, _, tuned = json.loads((tmp_path / "report.json").read_text())["stages"]
    assert original["accuracy"] >= 0.98
    assert tuned["accuracy"] >= original["accuracy"] - 0.01
    assert tuned["flops"] <= 0.5 * original["flops"]
