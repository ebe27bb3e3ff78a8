"""The zoo of the coverage benchmark is well formed, and what the benchmark measures with can tell right from wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from benchmarks import coverage_timm, coverage_torchvision
from benchmarks.coverage_child import describe
from benchmarks.coverage_compare import ask_oracle
from benchmarks.coverage_models import BATCH, LIMIT, Example, UnavailableError, find, make, parameters, select, zoo
from benchmarks.coverage_process import ROOT, Fork, Limits, watch
from benchmarks.coverage_table import details, summary
from benchmarks.coverage_torch_pruning import read_slices
from fxprune.capture import capture

ENTRIES = zoo()
QUICK = ("torchvision/shufflenet_v2_x0_5", "timm/starnet_s050", "transformers/llama", "transformers/swin")
pytestmark = pytest.mark.filterwarnings("ignore")


def built(name: str) -> Example:
    try:
        return make(find(name))
    except UnavailableError as error:
        pytest.skip(str(error))


def test_entries() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    sources = Counter(entry.source for entry in ENTRIES)
    assert sources["torchvision classification"] == 65
    assert sources["torchvision segmentation"] == 6
    assert sources["torchvision video"] == 9
    assert sources["timm"] >= 95
    assert sources["Transformers"] >= 45
    assert sources["diffusers"] >= 4


def test_listing_imports_no_torch() -> None:
    """The process that hands out the work stays small."""
    code = "import sys; from benchmarks.coverage_models import zoo; zoo(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_selection() -> None:
    assert len(select([])) == len(ENTRIES)
    assert [entry.name for entry in select(["transformers/gpt2", "no such model"])] == ["transformers/gpt2"]
    assert {entry.source for entry in select(["torchvision video"])} == {"torchvision video"}


def check(example: Example) -> None:
    """Small enough, nothing constant, finite, and telling the examples of the batch apart."""
    model = example.model
    assert not any(module.training for module in model.modules())
    assert parameters(model) <= LIMIT
    constant = [
        name for name, each in model.named_parameters() if each.numel() > 4 and bool((each == each.flatten()[0]).all())
    ]
    assert not constant
    with torch.no_grad():
        results = [leaf for leaf in tree_leaves(example.call(model)) if isinstance(leaf, torch.Tensor)]
    assert results
    assert all(bool(leaf.isfinite().all()) for leaf in results)
    variation = [float((leaf[0] - leaf[1]).abs().max() / leaf.abs().max()) for leaf in results if len(leaf) == BATCH]
    assert max(variation) > 1e-2


@pytest.mark.parametrize("name", QUICK)
def test_quick_models(name: str) -> None:
    check(built(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_all_models(name: str) -> None:
    check(built(name))


@pytest.mark.slow
def test_torchvision_is_complete() -> None:
    models = pytest.importorskip("torchvision.models")
    listed = coverage_torchvision.CLASSIFICATION + coverage_torchvision.TOO_LARGE
    assert set(models.list_models(module=models)) == set(listed)
    assert set(models.list_models(module=models.segmentation)) == set(coverage_torchvision.SEGMENTATION)
    assert set(models.list_models(module=models.video)) == set(coverage_torchvision.VIDEO)


@pytest.mark.slow
def test_timm_is_complete() -> None:
    pytest.importorskip("timm")
    modules = coverage_timm.modules()
    assert set(modules) == set(coverage_timm.SMALLEST) | set(coverage_timm.TOO_LARGE)
    for module, name in coverage_timm.SMALLEST.items():
        assert name in modules[module]


class Attention(nn.Module):
    """Two heads of four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 24)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, -1, 4).permute(2, 0, 3, 1, 4)
        mixed: torch.Tensor = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


def cut(model: Attention, rows: list[int], columns: list[int]) -> Attention:
    """The model with only these rows of `qkv` and columns of `out`."""
    slim = Attention()
    slim.qkv.weight = nn.Parameter(model.qkv.weight[rows])
    slim.qkv.bias = nn.Parameter(model.qkv.bias[rows])
    slim.out.weight = nn.Parameter(model.out.weight[:, columns])
    slim.out.bias = model.out.bias
    return slim


def verdict(model: Attention, rows: list[int], columns: list[int]) -> Any:
    example = Example(model, (torch.randn(2, 5, 6),), None)
    slim = cut(model, rows, columns)
    slices = read_slices(model, slim)
    assert slices["qkv.bias"] == {0: rows}
    assert slices["qkv.weight"] == {0: rows}
    assert slices["out.weight"] == {1: columns}
    return ask_oracle(capture(model, example.inputs).graph_module, slices, slim, example)["verdict"]


def test_channels_of_equal_value_are_told_apart_by_their_order() -> None:
    """Two channels of a norm may have the same weight to the last bit; what another library kept is read off all the same."""
    original, pruned = nn.BatchNorm1d(6), nn.BatchNorm1d(4)
    with torch.no_grad():
        original.weight.copy_(torch.tensor([3.0, 1.0, 2.0, 5.0, 1.0, 4.0]))
        pruned.weight.copy_(torch.tensor([3.0, 2.0, 1.0, 4.0]))
    slices = read_slices(original, pruned)
    assert slices["weight"] == {0: [0, 2, 4, 5]}
    pruned.weight.data = pruned.weight.data.flip(0)
    with pytest.raises(AssertionError, match="no slice of the original in its order"):
        read_slices(original, pruned)


def test_a_bias_of_zeros_goes_with_its_matrix() -> None:
    original, pruned = nn.Linear(3, 6), nn.Linear(3, 2)
    with torch.no_grad():
        original.bias.zero_()
        pruned.weight.copy_(original.weight[[1, 4]])
        pruned.bias.zero_()
    slices = read_slices(original, pruned)
    assert slices == {"weight": {0: [1, 4]}, "bias": {0: [1, 4]}}


def test_the_reference_tells_whole_heads_from_mixed_ones() -> None:
    """What other libraries are asked: removing a head is right, putting halves of two heads together is not."""
    torch.manual_seed(0)
    model = Attention().eval()
    head = [4, 5, 6, 7]
    assert verdict(model, [start + each for start in (0, 8, 16) for each in head], head) == "agrees"
    halves = [0, 1, 4, 5]
    assert verdict(model, [start + each for start in (0, 8, 16) for each in halves], halves) == "differs"


@pytest.mark.parametrize(
    ("code", "limits", "expected"),
    [
        ("import time; time.sleep(60)", (0.02, 1e6), "timeout"),
        ("while True: pass", (0.5, 1e6), "timeout"),
        ("import time; time.sleep(60)", (60.0, 1.0), "memory"),
    ],
)
def test_limits(code: str, limits: tuple[float, float], expected: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert watch(process, Limits(*limits), time.monotonic(), threading.Event()) == expected
    finally:
        process.kill()
        process.wait()


def test_measurements_are_forks(tmp_path: Path) -> None:
    """Each tells its results, its errors and its exit code; one whose group is told to end still says so."""
    code = (
        "import sys, time\n"
        "from benchmarks import coverage_child, coverage_warm\n"
        "def main(arguments): print(arguments); time.sleep(60) if 'sleep' in arguments else sys.exit(3)\n"
        "coverage_warm.preload = lambda library: None\n"
        "coverage_child.main = main\n"
        "coverage_warm.main()\n"
    )
    folders = [tmp_path / name for name in ("fails", "sleeps")]
    with subprocess.Popen(
        [sys.executable, "-c", code, "fxprune"], stdin=subprocess.PIPE, text=True, process_group=0, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        for folder, argument in zip(folders, ("fail", "sleep"), strict=True):
            folder.mkdir()
            process.stdin.write(f"{json.dumps([str(folder), argument])}\n")
            process.stdin.flush()
        forks = [Fork(int(awaited(folder / "pid")), folder) for folder in folders]
        assert awaited(folders[0] / "code") == "1"
        assert (folders[0] / "out").read_text() == "['fail']\n"
        assert "SystemExit: 3" in (folders[0] / "errors").read_text()
        assert forks[1].poll() is None
        os.killpg(process.pid, signal.SIGTERM)
        assert awaited(folders[1] / "code") == str(-signal.SIGTERM)
        forks[1].end()


def awaited(path: Path) -> str:
    """What a file says, once it is there."""
    until = time.monotonic() + 30
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return path.read_text()


def test_errors_name_files_without_their_folders() -> None:
    text = 'File "/some/where/model.py", line 3: a / b\nof /tmp/x1/slim.onnx at 2/3.5'
    assert describe(ValueError(text))["message"] == 'File "model.py", line 3: a / b / of slim.onnx at 2/3.5'


def test_tables() -> None:
    passed = {
        "status": "pass",
        "captured": True,
        "budget_met": True,
        "error": 1e-7,
        "oracle": {"verdict": "agrees", "error": 1e-7},
        "trains": True,
        "nodes": 100,
        "flops": [10, 6],
        "seconds": {"capture": 1.0, "analysis": 0.01, "compile": 2.0},
    }
    failed = {"status": "refused", "captured": False, "failure": {"type": "CaptureError", "message": "m", "where": "w"}}
    results = json.loads(json.dumps({"fxprune": {"a": passed, "b": failed, "c": {"status": "unavailable"}}}))
    text = summary(results, {"a": "one", "b": "two", "c": "two"})
    assert "| all | 2 | 1 (50.0 %) |" in text
    assert "Left out: c (unavailable)." in text
    assert "median 100 us" in text
    table = details(results, ["a", "b", "c"])
    assert "| a | pass | 60.0 % |" in table
    assert "- b, refused in None: CaptureError at w: m" in table
