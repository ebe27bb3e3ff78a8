"""Every command from its arguments to what it prints and writes, on a toy model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import fxprune
from fxprune.backends.engine_file import read_info
from fxprune.cli import main
from tests.cli.toy_models import network

TOY = ["tests.cli.toy_models:network", "--input", "1x3x16x16"]


def run(*arguments: str) -> None:
    assert main([*arguments, "--traceback"]) == 0


def test_inspect_prints_groups(capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", *TOY)
    shown = capsys.readouterr().out
    assert "layers.first" in shown
    assert "16" in shown


@pytest.mark.parametrize("suffix", [".svg", ".json", ".graphml"])
def test_inspect_draws(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"graph{suffix}"
    run("inspect", *TOY, "--draw", str(path))
    assert "layers.first" in path.read_text()
    assert str(path) in capsys.readouterr().out.replace("\n", "")


def test_unknown_drawing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["inspect", *TOY, "--draw", "graph.doc"])
    assert stop.value.code == 2
    assert "does not end in one of .svg" in capsys.readouterr().err


def test_profile_prints_layers(capsys: pytest.CaptureFixture[str]) -> None:
    run("profile", *TOY)
    assert "layers.second" in capsys.readouterr().out


def test_input_is_inferred(capsys: pytest.CaptureFixture[str]) -> None:
    run("profile", TOY[0])
    assert "layers.second" in capsys.readouterr().out


def test_compile_writes_what_it_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    run("compile", *TOY, "--budget", "flops=50%", "--budget", "params=90%", "--out", str(out), "--onnx")
    assert {path.name for path in out.iterdir()} == {
        "plan.json",
        "report.txt",
        "report.json",
        "weights.safetensors",
        "model.onnx",
    }
    assert (out / "report.txt").read_text().strip() in capsys.readouterr().out
    json.loads((out / "report.json").read_text())
    json.loads((out / "plan.json").read_text())
    state = load_file(out / "weights.safetensors")
    original = network().state_dict()
    assert state.keys() == original.keys()
    assert sum(tensor.numel() for tensor in state.values()) < sum(tensor.numel() for tensor in original.values())
    session = onnxruntime.InferenceSession(out / "model.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 3, 16, 16), np.float32)})
    assert outputs.shape == (2, 10)


def test_compile_follows_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def compile_stand_in(model: torch.nn.Module, budget: object, **options: object) -> None:
        seen.update(options, budget=budget)
        raise fxprune.errors.InfeasibleBudget("too small", {})

    monkeypatch.setattr(fxprune, "compile", compile_stand_in)
    pruning = ["--budget", "20%", "--scorer", "magnitude", "--ignore", "layers.first"]
    options = [
        *pruning,
        "--drop",
        "layers.2",
        "--align",
        "4",
        "--search",
        "uniform",
        "--seed",
        "7",
        "--kv-cache",
        "8x64",
    ]
    assert main(["compile", *TOY, *options]) == 2
    assert isinstance(seen.pop("example_inputs"), tuple)
    assert seen == {
        "budget": "20%",
        "scorer": "magnitude",
        "ignore": ["layers.first"],
        "drop": ["layers.2"],
        "align": 4,
        "search": "uniform",
        "seed": 7,
        "config": False,
        "kv_cache": fxprune.KVCache(8, 64),
    }
    assert main(["compile", *TOY, "--budget", "latency=3 ms", "--backend", "onnxruntime"]) == 2
    assert (seen["budget"], seen["backend"]) == ({"latency": "3 ms"}, "onnxruntime")
    assert main(["compile", *TOY, "--budget", "20%", "--drop", "2", "--config"]) == 2
    assert (seen["drop"], seen["config"]) == (2, True)


def test_blocks_are_named_or_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *TOY, "--budget", "50%", "--drop", "2", "--drop", "layers.1"]) == 2
    assert "name blocks, or give one number alone" in capsys.readouterr().err


def test_onnx_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compile", *TOY, "--budget", "50%", "--onnx"])
    assert stop.value.code == 2
    assert "--onnx needs --out" in capsys.readouterr().err


def test_folder_that_cannot_be_is_said_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["compile", "no_such_package:net", "--budget", "50%", "--out", str(tmp_path / "file" / "folder")]) == 2
    assert "Cannot write to the folder" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0", "abc", "latency=3 MB"])
def test_unusable_budget_is_one_message(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *TOY, "--budget", budget]) == 2
    assert capsys.readouterr().err.startswith("error: The budget")


def test_export_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, slim = tmp_path / "whole.onnx", tmp_path / "slim.onnx"
    run("export", *TOY, "--out", str(whole))
    run("export", *TOY, "--out", str(slim), "--budget", "50%", "--backend", "onnxruntime")
    assert slim.stat().st_size < whole.stat().st_size
    shown = capsys.readouterr().out
    assert f"wrote {whole}" in shown
    assert "largest relative error" in shown


def test_export_to_tensorrt_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = tmp_path / "whole.engine"
    options = ["--compute-capability", "8.9", "--precision", "fp16", "--profile", "batch=1,2,4", "--opset", "18"]
    more = ["--option", "package=tensorrt_rtx", "--option", "verify=False"]
    run("export", *TOY, "--to", "tensorrt", "--out", str(engine), *options, *more)
    assert f"wrote {engine}" in capsys.readouterr().out
    info = read_info(engine)
    assert (info.compute_capability, info.precision, info.opset) == ("8.9", "fp16", 18)
    assert info.profiles == ({"batch": (1, 2, 4)},)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--out", "net.onnx", "--precision", "fp16"], "backend 'onnx' has no option precision; it has"),
        (["export", "--out", "net.onnx", "--to", "tensorrt", "--profile", "batch=1"], "is no range"),
        (["bench", "--option", "mode=default"], "names no backend's option"),
        (["bench", "--option", "inductor.speed=high"], "backend 'inductor' has no option speed; it has"),
        (["bench", "--backends", "eager", "--option", "inductor.mode=default"], "not among the backends"),
    ],
)
def test_options_that_a_backend_does_not_have(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([arguments[0], *TOY, *arguments[1:]]) == 2
    assert message in capsys.readouterr().err


def test_bench_measures_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    run("bench", *TOY, "--budget", "50%", "--backends", "eager", "--batch-size", "2", "--threads", "1")
    shown = capsys.readouterr().out
    assert "original" in shown
    assert "pruned" in shown
