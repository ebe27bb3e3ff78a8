from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from fxprune.cli.models import load_model, parse_arguments
from fxprune.errors import InputError
from tests.cli.toy_models import Network

TOYS = "tests.cli.toy_models"


def test_callable_is_called_with_literal_arguments() -> None:
    model = load_model(f"{TOYS}:network", ["width=4", "classes=7"])
    assert isinstance(model, Network)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
    assert not model.training


def test_nested_names_and_ready_models_are_found() -> None:
    assert load_model(f"{TOYS}:READY") is load_model(f"{TOYS}:READY")
    assert isinstance(load_model("torch:nn.Identity"), torch.nn.Identity)


def test_values_that_are_no_literals_are_text() -> None:
    assert parse_arguments(["weights=DEFAULT", "depth=-1", "flag=True", "text=a=b"]) == {
        "weights": "DEFAULT",
        "depth": -1,
        "flag": True,
        "text": "a=b",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet50", "not module:callable"),
        ("no_such_package.models:net", "No module named 'no_such_package'"),
        (f"{TOYS}:missing", "has no 'missing'"),
        (f"{TOYS}:NUMBER", "neither a model nor callable"),
        (f"{TOYS}:not_a_model", "type str"),
        (f"{TOYS}:broken", "ValueError: no such variant"),
    ],
)
def test_unusable_source_is_explained(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(source)


@pytest.mark.parametrize("argument", ["width", "=3", "2x=3"])
def test_unusable_argument_is_explained(argument: str) -> None:
    with pytest.raises(InputError, match="not name=value"):
        parse_arguments([argument])


def test_missing_torchvision_operators_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> None:
            if name == "needs_torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(InputError, match="built for another PyTorch"):
        load_model("needs_torchvision:net")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_are_loaded(suffix: str, tmp_path: Path) -> None:
    state = Network(width=4).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    loaded = load_model(f"{TOYS}:network", ["width=4"], path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_unusable_weights_are_explained(tmp_path: Path) -> None:
    source = f"{TOYS}:network"
    with pytest.raises(InputError, match="no file of weights"):
        load_model(source, (), tmp_path / "missing.pt")
    torch.save(Network(width=4).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="do not fit the model"):
        load_model(source, (), tmp_path / "other.pt")
    torch.save(Network(), tmp_path / "whole.pt")
    with pytest.raises(InputError, match="can be loaded safely"):
        load_model(source, (), tmp_path / "whole.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        load_model(source, (), tmp_path / "list.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(source, (), tmp_path / "noise.safetensors")
