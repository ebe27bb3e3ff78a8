"""Inductor: packages that are right or not there, and `torch.compile` to measure. What compiles C++ is slow."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.backends import get_backend
from fxprune.backends import inductor as backend
from fxprune.backends.inductor import METADATA, InductorBackend, open_package
from fxprune.backends.measure import Timing
from fxprune.errors import BackendError, VerificationError
from tests.backends.nets import Convnet, Fixed, Nested

IMAGES = torch.randn(2, 3, 8, 8)
needs_compiler = pytest.mark.skipif(InductorBackend().available() is not None, reason="no C++ compiler")


def lower(module: nn.Module, path: Path, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    return InductorBackend().lower(module, path, example_inputs=(args, kwargs or {}), **options)


def package(path: Path, **known: str) -> Path:
    """An archive with metadata like a package's, and nothing to run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/model/net.wrapper_metadata.json", json.dumps({METADATA: json.dumps(known)}))
    return path


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    reason = get_backend("inductor").available()
    assert reason is not None
    assert "install g++" in reason
    assert len(reason.splitlines()) == 1


def test_foreign_packages_are_refused_before_anything_of_them_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="there is no file"):
        open_package(tmp_path / "absent.pt2")
    damaged = tmp_path / "damaged.pt2"
    damaged.write_bytes(b"no archive")
    with pytest.raises(BackendError, match="no AOTInductor package that fxprune"):
        open_package(damaged)
    with pytest.raises(BackendError, match="no AOTInductor package that fxprune"):
        open_package(package(tmp_path / "bare.pt2", device="cpu"))
    with pytest.raises(BackendError, match=r"compiled by torch 1\.0, installed is"):
        open_package(package(tmp_path / "stale.pt2", torch="1.0", device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="for a CUDA device, and there is none"):
        open_package(package(tmp_path / "cuda.pt2", torch=str(torch.__version__), device="cuda"))
    with pytest.raises(BackendError, match="cannot be opened"):
        open_package(package(tmp_path / "empty.pt2", torch=str(torch.__version__), device="cpu"))


def test_bad_options_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"ends in \.pt2, such as net\.pt2"):
        lower(Convnet(), tmp_path / "net.onnx", IMAGES)
    with pytest.raises(BackendError, match=r"cannot trace the module: .*3 channels"):
        lower(Convnet(), tmp_path / "net.pt2", torch.randn(2, 5, 8, 8), dynamic_batch=False)
    for options, message in (
        ({"mode": "fast"}, "mode='fast' is none of torch.compile's: pass 'default'"),
        ({"mode": "default", "options": {}}, "mode= or options=, not both"),
    ):
        with pytest.raises(BackendError, match=message):
            InductorBackend().measure(Convnet(), example_inputs=((IMAGES,), {}), **options)
    assert list(tmp_path.iterdir()) == []


def test_what_the_compiler_refuses_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("lowering failed\nat length")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    with pytest.raises(BackendError, match=r"cannot compile the module: lowering failed$"):
        lower(Convnet(), tmp_path / "net.pt2", IMAGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_compiler
def test_a_package_runs_at_any_batch_size_and_keeps_nesting(tmp_path: Path) -> None:
    module = Nested().eval()
    args = (torch.randn(2, 6), [torch.randn(2, 6), 3])
    kwargs = {"twice": False, "extra": {"bias": torch.randn(2, 4), "weights": torch.randn(5)}}
    artifact = lower(module, tmp_path / "net.pt2", *args, kwargs=kwargs)
    assert artifact.largest_relative_error < 1e-5
    assert artifact.inputs[0].shape == ("batch", 6)
    assert [spec.dtype for spec in artifact.outputs] == ["float32", "float32", "bool", "int64"]
    assert artifact.size_bytes == artifact.path.stat().st_size
    assert artifact.notes == ()
    runner = get_backend("inductor").load(artifact.path)
    args = (torch.randn(4, 6), [torch.randn(4, 6), 3])
    kwargs["extra"]["bias"] = torch.randn(4, 4)  # type: ignore[index]
    expected = module(*args, **kwargs)
    torch.testing.assert_close(runner.run(*args, **kwargs), [expected["logits"], *expected["hidden"], expected["best"]])
    with pytest.raises(BackendError, match="Inductor failed"):
        runner.run(torch.randn(4, 7), args[1], **kwargs)


@pytest.mark.slow
@needs_compiler
def test_a_fixed_batch_size_is_said_and_a_wrong_result_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 4)
    artifact = lower(Fixed().eval(), tmp_path / "net.pt2", images)
    assert "fixed to 2: the module does not run with 3 samples" in artifact.notes[0]
    former = artifact.path.read_bytes()
    export = backend._export
    monkeypatch.setattr(backend, "_export", lambda module, *rest: export(nn.Softplus(), *rest))
    with pytest.raises(VerificationError, match=r"net\.pt2"):
        lower(Fixed().eval(), tmp_path / "net.pt2", images.reshape(2, 12))
    assert artifact.path.read_bytes() == former


@pytest.mark.slow
@needs_compiler
def test_measuring_compiles_and_leaves_the_module_alone() -> None:
    module = Convnet()
    latency = InductorBackend().measure(module, example_inputs=((IMAGES,), {}), timing=Timing(budget_s=0.1))
    assert 0 < latency.low_s <= latency.median_s <= latency.high_s
    assert latency.versions["torch"] == torch.__version__
    assert all(child.training for child in module.modules())
