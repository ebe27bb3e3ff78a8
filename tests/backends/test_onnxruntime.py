"""ONNX Runtime sessions with torch tensors, and the backend on top of them."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from fxprune.backends.eager import EagerRunner
from fxprune.backends.measure import Timing
from fxprune.backends.onnxruntime import OnnxRuntimeBackend
from fxprune.backends.session import open_session
from fxprune.errors import BackendError
from tests.backends.nets import Convnet

IMAGES = torch.randn(2, 3, 8, 8)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return Convnet().eval()


@pytest.fixture(scope="module")
def path(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session") / "net.onnx"
    artifact = OnnxRuntimeBackend().lower(module, path, example_inputs=((IMAGES,), {}))
    assert artifact.backend == "onnxruntime"
    return path


def test_inputs_by_place_and_by_name(path: Path, module: nn.Module) -> None:
    runner = open_session(path, threads=1)
    expected = EagerRunner(module).run(IMAGES)
    torch.testing.assert_close(runner.run(IMAGES), expected)
    torch.testing.assert_close(runner.run(images=IMAGES), expected)
    transposed = IMAGES.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(runner.run(transposed), expected)
    assert runner.device.endswith(", 1 thread")
    assert "onnxruntime" in runner.versions


def test_outputs_of_one_call_survive_the_next(path: Path) -> None:
    runner = open_session(path)
    (first,) = runner.run(IMAGES)
    kept = first.clone()
    runner.run(torch.randn(5, 3, 8, 8))
    runner.run(torch.randn(2, 3, 8, 8))
    assert torch.equal(first, kept)


def test_inputs_that_do_not_fit_are_explained(path: Path) -> None:
    runner = open_session(path)
    with pytest.raises(BackendError, match=r"input images is missing; it takes images: tensor\(float\)"):
        runner.run()
    with pytest.raises(BackendError, match=r"no input for argument \[0\]\[1\]"):
        runner.run(IMAGES, IMAGES)
    with pytest.raises(BackendError, match=r"'images' is torch.float64, the file wants tensor\(float\)"):
        runner.run(IMAGES.double())
    with pytest.raises(BackendError, match=r"ONNX Runtime failed: .*invalid dimensions"):
        runner.run(torch.randn(2, 4, 8, 8))


def test_files_from_elsewhere_go_by_order(path: Path, module: nn.Module, tmp_path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    torch.testing.assert_close(open_session(tmp_path / "foreign.onnx").run(IMAGES), EagerRunner(module).run(IMAGES))


def test_files_that_are_none_and_devices_that_are_none(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="there is no file"):
        open_session(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"cannot open broken\.onnx"):
        open_session(tmp_path / "broken.onnx")
    with pytest.raises(BackendError, match="cpu and cuda only, not on mps"):
        open_session(path, device="mps")


def test_cuda_says_what_to_install(path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match="pip install onnxruntime-gpu"):
        open_session(path, device="cuda")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OnnxRuntimeBackend().available() is None
    monkeypatch.setitem(sys.modules, package, None)
    reason = OnnxRuntimeBackend().available()
    assert reason == f"the package '{package}' cannot be imported: pip install 'fxprune[onnx]'"


def test_measure_leaves_the_module_alone() -> None:
    module = Convnet()
    latency = OnnxRuntimeBackend().measure(
        module, example_inputs=((IMAGES,), {}), timing=Timing(budget_s=0.1), threads=1
    )
    assert 0 < latency.low_s <= latency.median_s <= latency.high_s
    assert latency.throughput == pytest.approx(2 / latency.median_s)
    assert all(child.training for child in module.modules())
