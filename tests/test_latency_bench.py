"""The latency benchmark: pairs at equal FLOPs, records that become tables, and a run that was cut short goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.latency import PAIRS, items_of, parsed
from benchmarks.latency_cells import Bench
from benchmarks.latency_models import SUBJECTS, bisect_torch_pruning, flops_of
from benchmarks.latency_records import Cell, Item, append, chosen, finished, read
from benchmarks.latency_table import write_tables
from benchmarks.latency_variants import Workshop
from benchmarks.latency_warm import compile_ahead, tasks_of
from fxprune.backends import Timing

pytest.importorskip("matplotlib")
CPU = torch.device("cpu")


def quiet(_: str) -> None:
    """Say nothing."""


def latency(seconds: float, speedup: float | None) -> dict[str, Any]:
    ratio = None if speedup is None else {"median": speedup, "low": speedup, "high": speedup}
    known = {"median_s": seconds, "low_s": seconds, "high_s": seconds, "throughput": 1 / seconds, "settled": True}
    return {**known, "speedup": ratio, "device": "a CPU", "versions": {"torch": "2"}}


def record(batch: int, **latencies: Any) -> dict[str, Any]:
    """Variants by keyword, `at_tp` for `fxprune@tp`."""
    cell = {"model": "resnet18", "dtype": "float32", "backend": "eager", "batch": batch}
    renamed = {"fxprune@tp" if name == "at_tp" else name: each for name, each in latencies.items()}
    facts = {"original": {"flops": 1.0, "params": 1.0}, "tp": {"flops": 0.49, "params": 0.5}}
    facts |= {"fxprune@tp": {"flops": 0.48, "params": 0.6}, "fxprune-latency": {"flops": 0.4, "params": 0.7}}
    return {**cell, "device": "cpu", "share": 0.5, "facts": facts, "latencies": renamed}


def test_the_table_shows_pairs_at_equal_flops(tmp_path: Path) -> None:
    first = record(1, original=latency(0.02, None), tp=latency(0.01, 2.0), at_tp=latency(0.008, 2.5))
    again = record(1, tp=latency(0.016, 1.25))
    failed = record(8, original=latency(0.1, None), tp={"error": "RuntimeError: no"}, at_tp=latency(0.2, 0.5))

    text = write_tables([first, again, failed], tmp_path)

    pair = "| resnet18 | float32 | eager | 1 | tp | 20 | 49.0% | 1.25 (1.25 .. 1.25) | 48.0% | 2.50 (2.50 .. 2.50) | 2.00 |"
    assert pair in text
    assert "| resnet18 | float32 | eager | 8 | tp | 100 | 49.0% | failed | 48.0% | 0.50 (0.50 .. 0.50) | - |" in text
    assert "faster than Torch-Pruning at its FLOPs in 1 of 1 pairs" in text
    assert "slower than the original in 1 of 2 rows" in text
    assert "- resnet18/float32/eager/8 tp: RuntimeError: no" in text
    assert {path.name for path in tmp_path.iterdir()} == {"latency.csv", "latency.json", "latency.md", "latency.png"}


def test_a_budget_of_latency_is_met_by_the_lower_end_of_its_speed_up(tmp_path: Path) -> None:
    met, missed = latency(0.01, 2.1), latency(0.01, 2.1)
    missed["speedup"]["low"] = 1.9
    rows = [
        record(batch, original=latency(0.02, None), **{"fxprune-latency": each})
        for batch, each in ((1, met), (8, missed))
    ]
    lines = [line for line in write_tables(rows, tmp_path).splitlines() if "fxprune-latency" in line]
    assert [line.rsplit("|", 2)[1].strip() for line in lines] == ["yes", "no"]


def test_a_run_that_was_cut_short_measures_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "latency.jsonl"
    append(file, record(1, original=latency(0.02, None), tp=latency(0.01, 2.0)))
    with file.open("a") as stream:
        stream.write('{"model": "resn')  # killed while writing
    append(file, record(8, original=latency(0.02, None), tp=latency(0.01, 2.0)))
    assert [each["batch"] for each in read(file)] == [1, 8]

    cell = Cell("resnet18", "float32", "eager", 1)
    done = finished(file, "cpu", 0.5)
    assert done[cell] == {"original", "tp"}
    item = Item("flops", cell, ("original", "tp", "fxprune@tp"))
    left = item.without(done[cell])
    assert left is not None
    assert left.variants == ("original", "fxprune@tp")
    assert left.without(["fxprune@tp", "original"]) is None
    assert not finished(file, "cuda", 0.5)
    assert not finished(file, "cpu", 0.4)


def test_what_is_measured_is_chosen_by_name() -> None:
    options = parsed(["--device", "cuda", "--backends", "inductor-graphs", "eager", "--batches", "1", "64", "256"])
    items = list(items_of(options))
    for each in PAIRS:
        assert each.startswith("fxprune") or f"fxprune@{each}" in PAIRS
    assert {item.variants for item in items if item.question == "flops"} == {("original", *PAIRS)}
    assert {item.cell.batch for item in items if item.question == "latency"} == {64}
    names = [item.name for item in chosen(items, ["latency/*/cuda-graph/*", "flops/bert/*/eager/1"])]
    dtypes = len(options.dtypes)
    assert len(names) == (4 + 1) * dtypes
    with pytest.raises(ValueError, match="--only nothing matches nothing"):
        chosen(items, ["nothing"])


def test_only_what_inductor_compiles_for_several_cells_is_compiled_ahead() -> None:
    cells = [Cell("resnet18", "float32", "inductor", batch) for batch in (1, 8)]
    items = [Item("flops", cell, ("original", "tp", "fxprune-latency")) for cell in cells]
    items.append(Item("flops", Cell("resnet18", "float32", "eager", 1), ("original", "tp")))
    assert tasks_of(items) == [("resnet18", "original", tuple(cells)), ("resnet18", "tp", tuple(cells))]


def test_nothing_is_compiled_ahead_once_the_time_is_up(tmp_path: Path) -> None:
    task = ("resnet18", "original", (Cell("resnet18", "float32", "inductor", 1),))
    assert "the time is up" in compile_ahead(task, time.monotonic() - 1, "cpu", 0.5, tmp_path / "ratios.json")


@pytest.mark.slow
def test_fxprune_has_the_flops_of_the_variant_it_is_paired_with(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    ratios = tmp_path / "ratios.json"
    shop = Workshop(CPU, 0.5, ratios, quiet)
    modules, facts = shop.variants("resnet18", ["original", "tp:64", "fxprune@tp:64"])
    tp, pair = facts["tp:64"]["flops"], facts["fxprune@tp:64"]["flops"]
    assert tp <= 0.5
    assert 0.9 * tp < pair <= tp
    known = json.loads(ratios.read_text())["resnet18 tp:64 0.5"]
    assert known["flops"] == tp
    again = Workshop(CPU, 0.5, ratios, quiet).facts_of("resnet18", "tp:64")  # from the ratio, without bisection
    assert again == facts["tp:64"]

    timing = Timing(warmup_calls=1, warmup_s=0.0, budget_s=0.1, min_samples=6, max_samples=6)
    cell = Cell("resnet18", "float32", "eager", 1)
    found, _ = Bench(CPU, 0.5, timing, quiet).measure(cell, modules, ())
    assert all(found[name]["speedup"]["median"] > 1 for name in ("tp:64", "fxprune@tp:64"))


@pytest.mark.slow
def test_torch_pruning_is_bisected_to_the_share() -> None:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    subject = SUBJECTS["resnet18"]
    model = subject.make()
    ratio, slim = bisect_torch_pruning(subject, model, 0.5, 16)
    assert 0 < ratio < 1
    example = subject.example(1)
    assert flops_of(slim, example) <= 0.5 * flops_of(model, example)
    assert slim.get_submodule("layer1.0.conv1").weight.shape[0] % 16 == 0  # type: ignore[index]
