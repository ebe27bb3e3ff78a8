"""`fxprune.lower`: names, example inputs, what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.errors import BackendError, InputError
from fxprune.lower import lower


class Slim(nn.Linear):
    """Keeps its example inputs as slim modules do."""

    example_inputs: Any = ((torch.ones(2, 3),), {})


def test_example_inputs_come_from_the_module(tmp_path: Path) -> None:
    artifact = lower(Slim(3, 4), "onnx", str(tmp_path / "net.onnx"))
    assert artifact.path == tmp_path / "net.onnx"
    assert artifact.inputs[0].shape == ("batch", 3)


@pytest.mark.parametrize("inputs", [torch.ones(2, 3), (torch.ones(2, 3),), {"input": torch.ones(2, 3)}])
def test_example_inputs_are_written_as_users_write_them(tmp_path: Path, inputs: object) -> None:
    artifact = lower(nn.Linear(3, 4), "onnxruntime", tmp_path / "net.onnx", example_inputs=inputs)
    assert artifact.backend == "onnxruntime"
    assert str(artifact.inputs[0]) == "input: float32 [batch, 3]"


def test_missing_example_inputs_say_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Linear has no example inputs: pass example_inputs=\(images,\)"):
        lower(nn.Linear(3, 4), "onnx", tmp_path / "net.onnx")


def test_unknown_backends_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    missing = r"the package 'onnxscript' cannot be imported: pip install 'fxprune\[onnx\]'"
    with pytest.raises(BackendError, match=rf"'onnx' is not available: {missing}"):
        lower(Slim(3, 4), "onnx", tmp_path / "net.onnx")
    with pytest.raises(
        BackendError, match=rf"no backend 'openvino'; there are: eager; onnx \(not available: {missing}"
    ):
        lower(Slim(3, 4), "openvino", tmp_path / "net.onnx")


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="opset_version"):
        lower(Slim(3, 4), "onnx", tmp_path / "net.onnx", opset_version=18)
