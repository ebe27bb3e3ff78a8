"""The ONNX backend: what it writes, and that what it writes is right or not there."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from fxprune.backends import get_backend
from fxprune.backends import onnx as backend
from fxprune.backends.onnx_export import export_program
from fxprune.errors import BackendError, VerificationError
from tests.backends.nets import Branching, Convnet, Fixed, Nested, Unsupported


def lower(module: nn.Module, path: Path, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    return backend.OnnxBackend().lower(module, path, example_inputs=(args, kwargs or {}), **options)


def test_a_convnet_runs_at_any_batch_size(tmp_path: Path) -> None:
    module = Convnet().eval()
    artifact = lower(module, tmp_path / "net.onnx", torch.randn(1, 3, 8, 8))
    assert artifact.dynamic_axes == {"images": {0: "batch"}, "output": {0: "batch"}}
    assert artifact.largest_relative_error < 1e-5
    assert artifact.size_bytes == artifact.path.stat().st_size
    assert artifact.notes == ()
    runner = get_backend("onnx").load(artifact.path)
    for size in (1, 2, 7):
        images = torch.randn(size, 3, 8, 8)
        torch.testing.assert_close(runner.run(images), [module(images)])


def test_inputs_outputs_and_constants_nest(tmp_path: Path) -> None:
    module = Nested().eval()
    args = (torch.randn(2, 6), [torch.randn(2, 6), 3])
    kwargs = {"twice": False, "extra": {"bias": torch.randn(2, 4), "weights": torch.randn(5)}}
    artifact = lower(module, tmp_path / "net.onnx", *args, kwargs=kwargs)
    assert [spec.name for spec in artifact.outputs] == ["logits", "hidden_0", "hidden_1", "best"]
    assert [spec.dtype for spec in artifact.outputs] == ["float32", "float32", "bool", "int64"]
    assert artifact.inputs[-1].shape == (5,)
    assert artifact.notes == ()

    runner = get_backend("onnx").load(artifact.path)
    args = (torch.randn(4, 6), [torch.randn(4, 6), 3])
    kwargs = {"extra": {"weights": torch.randn(5), "bias": torch.randn(4, 4)}, "twice": False}
    expected = module(*args, **kwargs)
    torch.testing.assert_close(runner.run(*args, **kwargs), [expected["logits"], *expected["hidden"], expected["best"]])


def test_the_module_stays_as_it_is(tmp_path: Path) -> None:
    module = Convnet()
    module.norm.eval()
    flags = [child.training for child in module.modules()]
    before = copy.deepcopy(module.state_dict())
    images = torch.randn(2, 3, 8, 8)
    given = images.clone()
    lower(module, tmp_path / "net.onnx", images)
    assert [child.training for child in module.modules()] == flags
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert torch.equal(images, given)


def test_weights_keep_their_names_and_opset_is_an_option(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = Convnet()
    artifact = lower(module, tmp_path / "net.onnx", torch.randn(2, 3, 8, 8), opset=18)
    model = onnx.load(artifact.path)
    assert artifact.opset == 18
    assert [item.version for item in model.opset_import if not item.domain] == [18]
    named = {item.name for item in model.graph.initializer if not item.name.startswith("val_")}
    assert {"conv.weight", "head.bias"} <= named <= set(module.state_dict())
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_an_opset_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="opset 99"):
        lower(Convnet(), tmp_path / "net.onnx", torch.randn(2, 3, 8, 8), opset=99)


@pytest.mark.parametrize(
    ("module", "note"), [(Fixed(), "does not run with 3 samples"), (Branching(), "depends on its value")]
)
def test_a_fixed_batch_size_is_said(tmp_path: Path, module: nn.Module, note: str) -> None:
    artifact = lower(module, tmp_path / "net.onnx", torch.randn(2, 3, 4))
    assert artifact.dynamic_axes == {}
    assert "fixed to 2" in artifact.notes[0]
    assert note in artifact.notes[0]


def test_a_fixed_batch_size_can_be_asked_for(tmp_path: Path) -> None:
    artifact = lower(Convnet(), tmp_path / "net.onnx", torch.randn(2, 3, 8, 8), dynamic_batch=False)
    assert artifact.dynamic_axes == {}
    assert artifact.notes == ()


def test_a_wrong_weight_is_found_and_the_former_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"former")

    def perturbed(module: nn.Module, *args: Any, **options: Any) -> Any:
        changed = copy.deepcopy(module)
        with torch.no_grad():
            changed.get_parameter("head.weight")[0, 0] += 1
        return export_program(changed, *args, **options)

    monkeypatch.setattr(backend, "export_program", perturbed)
    module, images = Convnet(), torch.randn(2, 3, 8, 8)
    with pytest.raises(VerificationError, match=r"'output' of .*net.onnx with 2 samples .* relative error"):
        lower(module, path, images)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]

    assert lower(module, path, images, tolerance=10.0).largest_relative_error > 1e-3
    assert lower(module, path, images, verify=False).largest_relative_error is None


def test_an_operation_without_translation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"former")
    with pytest.raises(BackendError, match=r"at operation \S*bessel_j0\.default: No ONNX function") as caught:
        lower(Unsupported(), path, torch.randn(2, 3))
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is not None
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_module_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"expected input.* to have 3 channels, but got 5"):
        lower(Convnet(), tmp_path / "net.onnx", torch.randn(2, 5, 8, 8))


def test_large_weights_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "EXTERNAL_BYTES", 1000)
    module, images = nn.Linear(64, 64), torch.randn(2, 64)
    first = lower(module, tmp_path / "net.onnx", images)
    second = lower(module, tmp_path / "net.onnx", images)
    files = sorted(tmp_path.iterdir())
    assert [file.suffix for file in files] == [".onnx", ".data"]
    assert first.size_bytes == second.size_bytes == sum(file.stat().st_size for file in files)
    torch.testing.assert_close(get_backend("onnx").load(second.path).run(images), [module(images)])
    monkeypatch.undo()
    lower(module, tmp_path / "net.onnx", images)
    assert list(tmp_path.iterdir()) == [tmp_path / "net.onnx"]


def test_float16_works_and_bfloat16_says_what_to_do(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 8, 8)
    artifact = lower(Convnet().half(), tmp_path / "half.onnx", images.half())
    assert artifact.inputs[0].dtype == "float16"
    assert artifact.largest_relative_error < 2e-2
    with pytest.raises(BackendError, match=r"no bfloat16 version .* \.half\(\), or pass verify=False"):
        lower(Convnet().bfloat16(), tmp_path / "bfloat.onnx", images.bfloat16())
    artifact = lower(Convnet().bfloat16(), tmp_path / "bfloat.onnx", images.bfloat16(), verify=False)
    assert artifact.outputs[0].dtype == "bfloat16"


def test_paths_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="is a folder"):
        lower(Convnet(), tmp_path, torch.randn(2, 3, 8, 8))
    with pytest.raises(BackendError, match="does not exist"):
        lower(Convnet(), tmp_path / "absent" / "net.onnx", torch.randn(2, 3, 8, 8))


def test_comparing_needs_onnxruntime_and_writing_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install 'fxprune\[onnx\]', or pass verify=False"):
        lower(Convnet(), tmp_path / "net.onnx", torch.randn(2, 3, 8, 8))
    assert lower(Convnet(), tmp_path / "net.onnx", torch.randn(2, 3, 8, 8), verify=False).path.is_file()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision(tmp_path: Path, name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    artifact = lower(getattr(models, name)(), tmp_path / "net.onnx", torch.randn(1, 3, 64, 64))
    assert artifact.dynamic_axes == {"x": {0: "batch"}, "output": {0: "batch"}}
    assert artifact.largest_relative_error < 1e-4


class WindowAttention(nn.Module):
    """Attention within windows: a dimension more than ONNX's decomposition takes, and a mask for each window."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.mask = nn.Parameter(torch.randn(3, 1, 5, 5))
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).reshape(-1, 3, 5, 3, 2, 4).permute(3, 0, 1, 4, 2, 5).unbind(0)
        found = nn.functional.scaled_dot_product_attention(query, key, value, self.mask)
        projected: Tensor = self.out(found.transpose(2, 3).reshape(-1, 3, 5, 8))
        return projected


class PlainAttention(nn.Module):
    """Attention with neither heads nor windows."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(8, 6), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        return nn.functional.scaled_dot_product_attention(query, query.tanh(), self.value(x))


class GroupedProduct(nn.Module):
    """Rows sorted by expert, each times its expert's matrix; one expert gets none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        experts = (rows.argmax(-1) % 3).sort().values
        offs = nn.functional.one_hot(experts, 4).sum(0).cumsum(0).to(torch.int32)
        product: Tensor = torch.ops.transformers.grouped_mm_fallback(rows, self.weight, offs)
        grouped: Tensor = product.unflatten(0, (-1, x.shape[1]))
        return grouped


@pytest.mark.parametrize(
    ("module", "shape"),
    [(WindowAttention(), (2, 3, 5, 8)), (PlainAttention(), (2, 5, 8)), (GroupedProduct(), (2, 7, 8))],
)
def test_what_the_exporter_lacks_is_written(tmp_path: Path, module: nn.Module, shape: tuple[int, ...]) -> None:
    pytest.importorskip("transformers.integrations.moe")  # which defines the grouped product
    artifact = lower(module.eval(), tmp_path / "model.onnx", torch.randn(shape))
    assert artifact.largest_relative_error is not None
    assert artifact.largest_relative_error < 1e-5
    assert not artifact.notes
