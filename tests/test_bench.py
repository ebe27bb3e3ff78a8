"""`fxprune.bench`: rows, speed-ups, what is left out, text and JSON."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from fxprune.backends import Timing
from fxprune.bench import bench
from fxprune.errors import BackendError, InputError

QUICK = Timing(warmup_calls=1, budget_s=0.05, min_samples=6)
IMAGES = torch.ones(2, 64)


def test_modules_and_backends_side_by_side() -> None:
    modules = {"dense": nn.Linear(64, 64), "slim": nn.Linear(64, 8)}
    table = bench(modules, ["eager", "onnxruntime"], example_inputs=IMAGES, batch_sizes=[1, 3], timing=QUICK)
    assert [(row.batch_size, row.backend, row.module) for row in table.rows] == [
        (size, backend, module)
        for size in (1, 3)
        for backend in ("eager", "onnxruntime")
        for module in ("dense", "slim")
    ]
    for row in table.rows:
        assert row.latency.speedup is not None
        assert (row.over_first_backend is None) == (row.backend == "eager")
        assert row.latency.throughput == pytest.approx((row.batch_size or 0) / row.latency.median_s)
    assert all(module.training for module in modules.values())

    text = str(table)
    assert "over dense" in text
    assert "over eager" in text
    assert "onnxruntime 1" in text
    figures = json.loads(table.to_json())
    assert figures["rows"][1]["latency"]["median_s"] == table.rows[1].latency.median_s
    assert figures["rows"][1]["latency"]["speedup"]["median"] > 0


def test_one_module_on_one_backend_has_no_speed_up() -> None:
    table = bench(nn.Linear(64, 8), example_inputs={"input": IMAGES}, timing=QUICK, threads=1)
    (row,) = table.rows
    assert (row.module, row.backend, row.batch_size) == ("Linear", "eager", 2)
    assert row.latency.device.endswith("1 thread")
    assert "over" not in str(table).split("items/s")[0]


def test_threads_are_put_back() -> None:
    former = torch.get_num_threads()
    bench(nn.Linear(64, 8), example_inputs=IMAGES, timing=QUICK, threads=former + 1)
    assert torch.get_num_threads() == former


def test_what_is_not_available_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    table = bench(nn.Linear(64, 8), ["eager", "onnxruntime"], example_inputs=IMAGES, timing=QUICK)
    assert [row.backend for row in table.rows] == ["eager"]
    assert "onnxruntime left out: the package 'onnxruntime' cannot be imported" in str(table)
    with pytest.raises(BackendError, match="no backend to measure on: onnxruntime: the package"):
        bench(nn.Linear(64, 8), ["onnxruntime"], example_inputs=IMAGES)
    with pytest.raises(BackendError, match="there is no backend 'openvino'"):
        bench(nn.Linear(64, 8), ["eager", "openvino"], example_inputs=IMAGES)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="no modules"):
        bench({}, example_inputs=IMAGES)
    with pytest.raises(InputError, match="no example inputs"):
        bench(nn.Linear(64, 8))
    with pytest.raises(InputError, match="positive sizes"):
        bench(nn.Linear(64, 8), example_inputs=IMAGES, batch_sizes=[0])
    with pytest.raises(InputError, match="batch dimension"):
        bench(nn.Identity(), example_inputs=torch.tensor(1.0), batch_sizes=[1])
