"""TensorRT engines, built without a GPU: what is in them, and what is refused."""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.backends import get_backend, tensorrt, tensorrt_package
from fxprune.backends.base import Artifact, TensorSpec
from fxprune.backends.engine_file import read_engine, read_info, refuse_foreign, write_engine
from fxprune.backends.onnx_precision import convert_file
from fxprune.backends.tensorrt import TensorRtBackend
from fxprune.backends.tensorrt_build import BuildOptions, build_engine
from fxprune.backends.tensorrt_package import choose_capability, choose_package
from fxprune.backends.tensorrt_run import open_engine
from fxprune.bench import bench
from fxprune.errors import BackendError, VerificationError
from tests.backends.nets import Convnet, Nested

pytest.importorskip("tensorrt_rtx")
IMAGES = torch.randn(2, 3, 8, 8)


def lower(path: Path, module: nn.Module | None = None, **options: Any) -> Artifact:
    options = {"compute_capability": "8.9", "package": "tensorrt_rtx", **options}
    inputs = options.pop("example_inputs", ((IMAGES,), {}))
    return TensorRtBackend().lower(module or Convnet().eval(), path, example_inputs=inputs, **options)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("engine") / "net.engine"
    return lower(path, profiles={"batch": (1, 4, 16)})


def test_an_engine_knows_what_it_is(engine: Artifact) -> None:
    info = read_info(engine.path)
    assert (info.package, info.compute_capability, info.precision) == ("tensorrt_rtx", "8.9", None)
    assert info.package_version == choose_package("tensorrt_rtx").version
    assert info.inputs == engine.inputs == (TensorSpec("images", "float32", ("batch", 3, 8, 8)),)
    assert info.outputs == engine.outputs
    assert info.profiles == ({"batch": (1, 4, 16)},)
    assert info.places == {"images": "[0][0]"}
    assert info.network_layers > 4
    assert info.engine_layers is not None
    assert engine.largest_relative_error is not None
    assert engine.largest_relative_error < 1e-5
    assert any("was not run" in note for note in engine.notes)
    assert engine.size_bytes == engine.path.stat().st_size
    kept, content = read_engine(engine.path)
    assert kept == info
    assert hashlib.sha256(content).hexdigest() == info.sha256


@pytest.mark.parametrize(
    ("capability", "precision", "width"), [("8.9", "tf32", 4), ("8.9", "fp16", 2), ("12.0", "bf16", 2)]
)
def test_weights_take_the_precision(capability: str, precision: str, width: int, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))
    artifact = lower(
        tmp_path / "net.engine",
        module,
        precision=precision,
        compute_capability=capability,
        example_inputs=((torch.randn(2, 256),), {}),
        dynamic_batch=False,
    )
    info = read_info(artifact.path)
    assert (info.compute_capability, info.precision) == (capability, precision)
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == "float32"
    weights = width * 2 * 256 * 1024
    assert weights <= info.size_bytes < weights + 400_000


def test_several_profiles_nested_inputs_and_builder_options(tmp_path: Path) -> None:
    args = (torch.randn(2, 6), [torch.randn(2, 6), 3])
    kwargs = {"extra": {"bias": torch.randn(2, 4), "weights": torch.randn(5)}}
    artifact = lower(
        tmp_path / "net.engine",
        Nested().eval(),
        example_inputs=(args, kwargs),
        profiles=[{"batch": (1, 1, 1)}, {"batch": (2, 8, 64)}],
        workspace=2**28,
        optimization_level=1,
        verify=False,
    )
    info = read_info(artifact.path)
    assert info.profiles == ({"batch": (1, 1, 1)}, {"batch": (2, 8, 64)})
    assert set(info.places.values()) == {"[0][0]", "[0][1][0]", "[1]['extra']['bias']", "[1]['extra']['weights']"}


def test_a_damaged_engine_is_refused(engine: Artifact, tmp_path: Path) -> None:
    content = engine.path.read_bytes()
    path = tmp_path / "net.engine"
    flipped = bytearray(content)
    flipped[-100] ^= 1
    start = content.index(b"{")
    for damaged, message in (
        (bytes(flipped), "its engine is not the one that was written"),
        (content[:-7], "it holds .* bytes"),
        (content[:40], "its header ends early"),
        (content.replace(b'"package":', b'"pakcage":', 1), "header of .* is damaged .*package"),
        (content[:start] + b"[" + content[start + 1 :], "header of .* is damaged"),
        (content.replace(b'"float32"', b'"package"', 1), "header of .* is damaged .*dtype 'package'"),
        (b"ftrt" + content, "is no engine that fxprune"),
        (content[:17] + b"\xff" * 8 + content[25:], "its header ends early"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BackendError, match=message):
            read_engine(path)
    with pytest.raises(BackendError, match="there is no file"):
        get_backend("tensorrt").load(tmp_path / "absent.engine")


def test_a_foreign_engine_is_refused_before_tensorrt_sees_it(
    engine: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = read_info(engine.path)
    refuse_foreign(engine.path, info, version=info.package_version, capability="8.9")
    with pytest.raises(BackendError, match=r"for compute capability 8\.9; the GPU here has 12\.0.*='12\.0'"):
        refuse_foreign(engine.path, info, version=info.package_version, capability="12.0")
    with pytest.raises(BackendError, match="no GPU here to run it on"):
        refuse_foreign(engine.path, info, version=info.package_version, capability=None)
    stale = tmp_path / "stale.engine"
    write_engine(stale, replace(info, package_version="1.0"), b"never looked at")
    with pytest.raises(BackendError, match=r"was built by tensorrt_rtx 1\.0 .* installed is"):
        open_engine(stale)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    write_engine(stale, replace(info, package="tensorrt"), b"never looked at")
    with pytest.raises(BackendError, match=r"package 'tensorrt' cannot be imported .*pip install"):
        open_engine(stale)


def test_what_the_parser_refuses_is_named(tmp_path: Path) -> None:
    import onnx

    class Rooted(nn.Module):
        """A product, whose operation is then made one that TensorRT does not know."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            product: torch.Tensor = self.inner(x).relu()
            return product

    source = tmp_path / "odd.onnx"
    artifact = get_backend("onnx").lower(Rooted(), source, example_inputs=((torch.randn(2, 4),), {}))
    model = onnx.load(source)
    (odd,) = (node for node in model.graph.node if node.op_type in ("Gemm", "MatMul"))
    odd.op_type, odd.domain = "Determinant3", "my.operations"
    onnx.save(model, source)
    package, options = choose_package("tensorrt_rtx"), BuildOptions("8.9")
    with pytest.raises(BackendError, match=r"cannot parse the model:\n.*at operation Determinant3") as caught:
        build_engine(package, source, artifact.inputs, [{"batch": (1, 2, 2)}], options)
    message = str(caught.value)
    assert f"ONNX node: {odd.name}: my.operations.Determinant3(" in message
    assert "aten.linear" in message
    assert "module: inner" in message
    assert "test_tensorrt.py" in message
    source.write_bytes(b"no model")
    with pytest.raises(BackendError, match="cannot parse the model:\nMODEL_DESERIALIZE_FAILED"):
        build_engine(package, source, artifact.inputs, (), options)


@pytest.fixture
def _heeded_interrupts() -> Iterator[None]:
    """Ctrl-C as in a program in the foreground; one in the background of a shell ignores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("_heeded_interrupts")
def test_an_interrupt_cancels_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.engine"
    path.write_bytes(b"former")
    former = signal.getsignal(signal.SIGINT)

    def interrupted(*args: Any, **options: Any) -> Any:
        from fxprune.backends import tensorrt_watch

        make = tensorrt_watch._make_monitor

        def made(*given: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return make(*given)

        monkeypatch.setattr(tensorrt_watch, "_make_monitor", made)
        return build_engine(*args, **options)

    monkeypatch.setattr(tensorrt, "build_engine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lower(path)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]
    assert signal.getsignal(signal.SIGINT) is former


def test_a_build_shows_its_steps_and_closes_its_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def recorded(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        assert what.startswith("TensorRT: ")
        assert total is not None
        seen.append("open")
        yield lambda: seen.append("step")
        seen.append("close")

    monkeypatch.setattr("fxprune.backends.tensorrt_watch.showing", recorded)
    artifact = lower(tmp_path / "net.engine", verify=False)
    assert artifact.notes == ("built for batch from 1 to 2: other sizes need profiles=",)
    assert seen.count("step") > 1
    assert seen.count("open") == seen.count("close") > 0


def test_a_wrong_result_is_not_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perturbed(source: Path, target: Path, precision: str) -> None:
        import numpy as np
        import onnx
        from onnx import numpy_helper

        convert_file(source, target, precision)
        model = onnx.load(target)
        (bias,) = (item for item in model.graph.initializer if item.name == "head.bias")
        bias.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(bias), 3), "head.bias"))
        onnx.save(model, target)

    monkeypatch.setattr(tensorrt, "convert_file", perturbed)
    with pytest.raises(VerificationError, match="relative error"):
        lower(tmp_path / "net.engine", precision="fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capability": None}, r"no GPU here .* compute_capability='8\.9'; .* builds for 7\.5"),
        ({"compute_capability": "5.0"}, r"cannot build for compute capability 5\.0 \(there is no GPU here\)"),
        ({"precision": "int4"}, "precision='int4' is none: pass 'fp32', 'tf32', 'fp16', 'bf16'"),
        ({"precision": "fp16", "module": Convnet().half()}, r"has torch\.float16: leave it out"),
        ({"package": "tensorflow"}, "none of TensorRT's: pass 'tensorrt' or 'tensorrt_rtx'"),
        ({"optimization_level": 9}, "pass 0 .* to 5"),
        ({"workspace": 0}, "no number of bytes"),
        ({"timing_cache": "times.cache"}, "for the package tensorrt"),
        ({"profiles": {"batch": (8, 4, 1)}}, r"pass \(smallest, optimal, largest\)"),
        ({"profiles": {"size": (1, 4, 8)}}, "has ranges for size; the dynamic sizes are batch"),
    ],
)
def test_bad_options_are_explained(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=message):
        lower(tmp_path / "net.engine", **options, verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorRtBackend().available() is None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    reason = TensorRtBackend().available()
    assert reason is not None
    assert "pip install 'fxprune[onnx,tensorrt]'" in reason
    assert len(reason.splitlines()) == 1


def test_tensorrt_comes_first_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_package, "import_module", lambda name: name)
    for capability, first in (("9.0", "tensorrt"), (None, "tensorrt_rtx")):
        monkeypatch.setattr(tensorrt_package, "current_capability", lambda capability=capability: capability)
        assert choose_package().name == first
    package = tensorrt_package.Package("tensorrt", type("Trt", (), {"__version__": "10.8"}))
    assert choose_capability(package, None, lambda: "9.0") == "9.0"
    with pytest.raises(BackendError, match=r"the GPU here has 9\.0.*package='tensorrt_rtx'"):
        choose_capability(package, "8.9", lambda: "9.0")


def test_nothing_is_measured_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="no GPU that PyTorch can use"):
        TensorRtBackend().measure(Convnet(), example_inputs=((IMAGES,), {}))
    with pytest.raises(BackendError, match="no backend to measure on: tensorrt: there is no GPU"):
        bench(Convnet(), ["tensorrt"], example_inputs=IMAGES)
