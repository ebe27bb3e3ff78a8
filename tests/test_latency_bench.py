"""The latency benchmark's records become tables, and a run that was cut short goes on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.latency import Cell, append, finished, read
from benchmarks.latency_models import SUBJECTS, flops_of, prune_torch_pruning
from benchmarks.latency_table import write_tables

pytest.importorskip("matplotlib")


def latency(seconds: float, speedup: float | None) -> dict[str, Any]:
    ratio = None if speedup is None else {"median": speedup, "low": speedup, "high": speedup}
    known = {"median_s": seconds, "low_s": seconds, "high_s": seconds, "throughput": 1 / seconds, "settled": True}
    return {**known, "speedup": ratio, "device": "a CPU", "versions": {"torch": "2"}}


def record(batch: int, **latencies: Any) -> dict[str, Any]:
    cell = {"model": "resnet18", "dtype": "float32", "backend": "eager", "batch": batch}
    facts = {"original": {"flops": 1.0, "params": 1.0}, "tp": {"flops": 0.49, "params": 0.5}}
    return {**cell, "device": "cpu", "share": 0.5, "facts": facts, "variants": list(latencies), "latencies": latencies}


def test_tables_show_the_last_record_of_a_cell_and_failures(tmp_path: Path) -> None:
    first = record(1, original=latency(0.02, None), tp=latency(0.01, 2.0))
    again = record(1, tp=latency(0.016, 1.25))
    failed = record(8, original=latency(0.1, None), tp={"error": "RuntimeError: no"})

    text = write_tables([first, again, failed], tmp_path)

    assert "| resnet18 | float32 | eager | 1 | 20 | 1.25 (1.25 .. 1.25) |" in text
    assert "| resnet18 | float32 | eager | 8 | 100 | failed |" in text
    assert "| resnet18 | 49.0%, 50.0% |" in text
    assert {path.name for path in tmp_path.iterdir()} == {"latency.csv", "latency.json", "latency.md", "latency.png"}


def test_a_run_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "latency.jsonl"
    append(file, record(1, original=latency(0.02, None), tp=latency(0.01, 2.0)))
    with file.open("a") as stream:
        stream.write('{"model": "resn')  # killed while writing

    options = argparse.Namespace(device="cpu", share=0.5, variants=["original", "tp"])
    assert finished(file, options) == {Cell("resnet18", "float32", "eager", 1)}
    append(file, record(8, original=latency(0.02, None), tp=latency(0.01, 2.0)))
    assert [each["batch"] for each in read(file)] == [1, 8]
    assert not finished(file, argparse.Namespace(device="cpu", share=0.5, variants=["original", "fxprune"]))
    assert not finished(file, argparse.Namespace(device="cuda", share=0.5, variants=["original", "tp"]))


@pytest.mark.slow
def test_torch_pruning_is_bisected_to_the_share() -> None:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    subject = SUBJECTS["resnet18"]
    model = subject.make()
    slim = prune_torch_pruning(subject, model, 0.5, 16)
    example = subject.example(1)
    assert flops_of(slim, example) <= 0.5 * flops_of(model, example)
    assert slim.get_submodule("layer1.0.conv1").weight.shape[0] % 16 == 0  # type: ignore[index]
