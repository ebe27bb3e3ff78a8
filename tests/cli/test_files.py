"""Commands that write and read slim models as one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fxprune
from fxprune.cli import main

TOY = ["tests.cli.toy_models:network", "--input", "1x3x16x16"]


def run(*arguments: str) -> None:
    assert main([*arguments, "--traceback"]) == 0


def test_compile_inspect_and_restore_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, weights = tmp_path / "new" / "slim.fxprune", tmp_path / "weights.safetensors"
    run("compile", *TOY, "--budget", "50%", "-o", str(path))
    assert f"wrote {path}" in capsys.readouterr().out
    slim = fxprune.load(path)

    run("inspect", str(path))
    shown = capsys.readouterr().out
    assert str(slim.report) in shown
    assert "scorer magnitude, scores kept" in shown
    assert f"fxprune {fxprune.__version__}" in shown

    run("restore", *TOY, "--from", str(path), "--out", str(weights))
    assert "agrees with the graph" in capsys.readouterr().out
    found = load_file(weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in slim.state_dict().items())


def test_errors_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slim.fxprune").write_bytes(b"PK\x03\x04 and no more")
    for command in (
        ["inspect", str(tmp_path / "slim.fxprune")],
        ["restore", *TOY, "--from", str(tmp_path / "slim.fxprune")],
    ):
        assert main(command) == 2
        assert "is no intact file of fxprune: BadZipFile: File is not a zip file" in capsys.readouterr().err.replace(
            "\n", " "
        )
