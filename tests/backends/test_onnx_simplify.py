"""Simplified ONNX files: fewer operations, the same inputs and outputs, and still compared with the module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from fxprune.backends import get_backend
from fxprune.errors import BackendError, VerificationError
from fxprune.inputs import Inputs
from tests.backends.nets import Convnet, Nested


class Positions(nn.Module):
    """Embeddings at positions and of types that are looked up by the input's length, as BERT's are, and three projections."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(32)[None])
        self.register_buffer("types", torch.zeros(1, 32, dtype=torch.long))
        self.tokens, self.positions, self.kinds = nn.Embedding(50, 16), nn.Embedding(32, 16), nn.Embedding(2, 16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        places: Tensor = self.places[:, :length]  # type: ignore[index]
        types = torch.gather(self.types.expand(batch, -1), 1, places.expand(batch, -1))  # type: ignore[operator]
        x = self.tokens(tokens) + self.positions(places) + self.kinds(types)
        query, key, value = self.query(x), self.key(x), self.value(x)
        out: Tensor = (query @ key.transpose(1, 2)).softmax(-1) @ value
        return out


TOKENS = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(0))


def operations(path: Path) -> int:
    return len(onnx.load(path).graph.node)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_there_are_fewer_operations_and_the_same_outputs(tmp_path: Path, name: str, dynamic: bool) -> None:
    pytest.importorskip("onnxsim")
    backend, module = get_backend(name), Positions().eval()
    given: dict[str, Any] = {"example_inputs": ((TOKENS,), {}), "dynamic_batch": dynamic}
    plain = backend.lower(module, tmp_path / "plain.onnx", **given)
    simple = backend.lower(module, tmp_path / "simple.onnx", simplify=True, **given)
    assert operations(simple.path) < operations(plain.path)
    assert (simple.inputs, simple.outputs, simple.opset) == (plain.inputs, plain.outputs, plain.opset)
    assert simple.largest_relative_error is not None
    (note,) = simple.notes
    assert f"{operations(plain.path)} operations before, {operations(simple.path)} after" in note
    tokens = TOKENS.repeat(2, 1) if dynamic else TOKENS
    torch.testing.assert_close(backend.load(simple.path).run(tokens), [module(tokens)], rtol=1e-4, atol=1e-5)


def test_inputs_keep_their_places(tmp_path: Path) -> None:
    pytest.importorskip("onnxsim")
    module, backend = Nested().eval(), get_backend("onnx")
    args = (torch.randn(2, 6), [torch.randn(2, 6), 3])
    kwargs = {"twice": False, "extra": {"bias": torch.randn(2, 4), "weights": torch.randn(5)}}
    artifact = backend.lower(module, tmp_path / "net.onnx", example_inputs=(args, kwargs), simplify=True)
    assert [spec.name for spec in artifact.outputs] == ["logits", "hidden_0", "hidden_1", "best"]
    expected = module(*args, **kwargs)
    found = backend.load(artifact.path).run(*args, **kwargs)
    torch.testing.assert_close(found, [expected["logits"], *expected["hidden"], expected["best"]])


def test_what_is_simplified_wrongly_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxsim = pytest.importorskip("onnxsim")
    simplify = onnxsim.simplify

    def wrongly(model: Any, **options: Any) -> tuple[Any, bool]:
        found, good = simplify(model, **options)
        weight = next(each for each in found.graph.initializer if len(each.dims) == 4)
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.5, weight.name))
        return found, good

    monkeypatch.setattr(onnxsim, "simplify", wrongly)
    path = tmp_path / "net.onnx"
    with pytest.raises(VerificationError):
        get_backend("onnx").lower(
            Convnet().eval(), path, example_inputs=((torch.randn(2, 3, 8, 8),), {}), simplify=True
        )
    assert not path.exists()


def test_a_missing_onnxsim_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    given: Inputs = ((torch.randn(2, 3, 8, 8),), {})
    with pytest.raises(BackendError, match=r"fxprune\[simplify\]"):
        get_backend("onnx").lower(Convnet().eval(), tmp_path / "net.onnx", example_inputs=given, simplify=True)
    assert not (tmp_path / "net.onnx").exists()


def test_a_model_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxsim")
    monkeypatch.setattr("fxprune.backends.onnx_simplify.MOST_BYTES", 100)
    given: Inputs = ((torch.randn(2, 3, 8, 8),), {})
    with pytest.raises(BackendError, match="leave simplify= out"):
        get_backend("onnx").lower(Convnet().eval(), tmp_path / "net.onnx", example_inputs=given, simplify=True)
