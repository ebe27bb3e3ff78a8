"""What is saved comes back: outputs to the last bit, names, types, ties, modes, and what the module knows of itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import fxprune
from fxprune import SlimModule
from fxprune.files.outputs import Output
from tests.files.nets import NETS, Convolutions, call, compiled


def assert_equal(one: Any, other: Any) -> None:
    """The same structure with the same numbers, to the last bit."""
    (left, left_spec), (right, right_spec) = tree_flatten(one), tree_flatten(other)
    assert left_spec == right_spec
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def round_trip(slim: nn.Module, folder: Path, **options: Any) -> SlimModule:
    fxprune.save(slim, folder / "slim.fxprune", **options)
    return fxprune.load(folder / "slim.fxprune")


@pytest.mark.parametrize("name", NETS)
def test_a_loaded_module_is_the_one_saved(name: str, tmp_path: Path) -> None:
    slim, _, inputs = compiled(name)
    loaded = round_trip(slim, tmp_path)
    assert_equal(call(slim, inputs), call(loaded, inputs))
    assert loaded.code == slim.code
    assert [(n, t.dtype, t.stride()) for n, t in slim.state_dict().items()] == [
        (n, t.dtype, t.stride()) for n, t in loaded.state_dict().items()
    ]
    assert [n for n, _ in slim.named_modules()] == [n for n, _ in loaded.named_modules()]
    assert [n for n, _ in slim.named_parameters()] == [n for n, _ in loaded.named_parameters()]
    assert loaded.plan == slim.plan
    assert loaded.report == slim.report
    assert str(loaded.report) == str(slim.report)
    assert_equal(loaded.example_inputs, slim.example_inputs)
    assert slim.scores is not None
    assert loaded.scores is not None
    assert loaded.scores.signature == slim.scores.signature
    for group, importance in slim.scores.importance.items():
        np.testing.assert_array_equal(importance, loaded.scores.importance[group])


@pytest.mark.parametrize("name", ["convolutions", "tied", "nested"])
def test_a_loaded_module_trains_saves_exports_and_is_pruned_again(name: str, tmp_path: Path) -> None:
    slim, _, inputs = compiled(name)
    loaded = round_trip(slim, tmp_path)
    loaded.train()
    optimizer = torch.optim.SGD(loaded.parameters(), 0.01)
    leaves = [each for each in tree_flatten(call_with_gradients(loaded, inputs))[0] if isinstance(each, Tensor)]
    sum(each.float().nan_to_num(0, 0, 0).square().mean() for each in leaves).backward()  # type: ignore[union-attr]
    optimizer.step()
    loaded.eval()
    again = round_trip(loaded, tmp_path)
    assert_equal(call(loaded, inputs), call(again, inputs))
    args, kwargs = again.example_inputs
    exported = torch.export.export(again, args, kwargs, strict=False)
    assert_equal(call(exported.module(), inputs), call(again, inputs))
    smaller = fxprune.compile(again, {"params": "80%"}, example_inputs=inputs, progress=False)
    count = sum(each.numel() for each in smaller.parameters())
    assert count <= 0.8 * sum(each.numel() for each in again.parameters())


def call_with_gradients(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def test_modes_settings_and_what_is_trained_are_kept(tmp_path: Path) -> None:
    slim, _, _ = compiled("convolutions")
    slim.train()
    slim.norm.eval()  # type: ignore[union-attr]
    slim.norm.momentum = 0.03  # type: ignore[union-attr]
    slim.drop.p = 0.5  # type: ignore[union-attr]
    slim.stem.weight.requires_grad_(False)  # type: ignore[union-attr]
    loaded = round_trip(slim, tmp_path)
    assert [each.training for each in slim.modules()] == [each.training for each in loaded.modules()]
    assert (loaded.norm.momentum, loaded.drop.p) == (0.03, 0.5)  # type: ignore[union-attr]
    assert not loaded.stem.weight.requires_grad  # type: ignore[union-attr]
    assert loaded.head.weight.requires_grad  # type: ignore[union-attr]


def test_tied_tensors_and_shared_modules_stay_one(tmp_path: Path) -> None:
    slim, _, inputs = compiled("tied")
    loaded = round_trip(slim, tmp_path)
    assert loaded.embed.weight is loaded.head.weight  # type: ignore[union-attr]
    assert loaded.first is loaded.second
    assert "scale" not in loaded.state_dict()
    assert "shift" in loaded.state_dict()
    with torch.no_grad():
        loaded.head.weight.mul_(2)  # type: ignore[union-attr, operator]
    assert not torch.equal(call(loaded, inputs), call(slim, inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_module_is_saved_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    slim, _, (images,) = compiled("convolutions")
    slim = copy.deepcopy(slim).to(dtype)
    assert_equal(round_trip(slim, tmp_path)(images.to(dtype)), slim(images.to(dtype)))


DTYPES = [
    torch.bool,
    torch.uint16,
    torch.int8,
    torch.int64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.complex64,
    torch.complex128,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_buffers_of_every_type(dtype: torch.dtype, tmp_path: Path) -> None:
    slim, _, _ = compiled("sequential")
    numbers = torch.arange(24).remainder(2).reshape(2, 3, 4).to(dtype)
    slim.register_buffer("extra", numbers)
    slim.register_buffer("turned", numbers.permute(2, 0, 1))
    slim.register_buffer("one", numbers[0, 0, 1].clone())
    slim.register_buffer("none", numbers[:0].clone(), persistent=False)
    loaded = round_trip(slim, tmp_path)
    for name in ("extra", "turned", "one", "none"):
        found, wanted = getattr(loaded, name), getattr(slim, name)
        assert (found.dtype, found.shape, found.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
        assert torch.equal(
            found.contiguous().reshape(-1).view(torch.uint8), wanted.contiguous().reshape(-1).view(torch.uint8)
        )


def test_copies_are_saved_like_their_originals(tmp_path: Path) -> None:
    slim, _, _ = compiled("tied")
    slim.train()
    slim.first.eval()  # type: ignore[union-attr]
    loaded = round_trip(copy.deepcopy(slim), tmp_path)
    assert list(loaded.state_dict()) == list(slim.state_dict())
    assert [each.training for each in slim.modules()] == [each.training for each in loaded.modules()]
    assert loaded.first is loaded.second


def test_equal_modules_make_equal_files(tmp_path: Path) -> None:
    slim, _, _ = compiled("convolutions")
    for name in ("a", "b"):
        fxprune.save(slim, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_scores_and_examples_can_be_left_out(tmp_path: Path) -> None:
    slim, _, (images,) = compiled("convolutions")
    loaded = round_trip(slim, tmp_path, scores=False, example_inputs=False)
    assert loaded.scores is None
    with pytest.raises(fxprune.InputError, match="pass example_inputs"):
        _ = loaded.example_inputs
    assert_equal(loaded(images), slim(images))


def test_a_class_that_is_not_there_becomes_fields(tmp_path: Path) -> None:
    from fxprune.files.structure import decode_structure

    spec = decode_structure({"output": ["nowhere:Result", [["logits", None], ["state", {"tuple": [None]}]]]}, "a test")
    from torch.utils._pytree import tree_unflatten

    found = tree_unflatten([1, 2], spec)
    assert isinstance(found, Output)
    assert (found.logits, found["state"], found[0]) == (1, (2,), 1)
    assert tree_flatten(copy.deepcopy(found))[1] == spec
    with pytest.raises(AttributeError, match="nowhere:Result has no field 'other'"):
        _ = found.other


def test_every_module_that_the_rewrite_makes_can_be_saved() -> None:
    from fxprune.files.modules import KINDS
    from fxprune.passes.module_table import FUNCTIONS

    assert {kind.__name__ for kind, _ in FUNCTIONS} <= KINDS.keys()


def test_another_device(tmp_path: Path) -> None:
    slim, _, inputs = compiled("nested")
    fxprune.save(slim, tmp_path / "slim.fxprune")
    moved = fxprune.load(tmp_path / "slim.fxprune", device="meta")
    assert {each.device.type for each in (*moved.parameters(), *moved.buffers())} == {"meta"}
    (args, kwargs) = moved.example_inputs
    assert {each.device.type for each in tree_flatten(moved(*args, **kwargs))[0] if each is not None} == {"meta"}
    assert inputs
    with pytest.raises(fxprune.InputError, match="device='nowhere' cannot be used"):
        fxprune.load(tmp_path / "slim.fxprune", device="nowhere")


def test_what_no_file_can_hold_is_said(tmp_path: Path) -> None:
    slim, model, _ = compiled("convolutions")
    slim.stem = nn.utils.parametrizations.weight_norm(slim.stem)  # type: ignore[arg-type]
    with pytest.raises(fxprune.CheckpointError, match="stem is a ParametrizedConv2d, not the Conv2d"):
        fxprune.save(slim, tmp_path / "slim.fxprune")
    with pytest.raises(fxprune.InputError, match="this Convolutions is neither"):
        fxprune.save(model, tmp_path / "slim.fxprune")
    with pytest.raises(fxprune.CheckpointError, match="is on the meta device"):
        fxprune.save(compiled("sequential")[0].to("meta"), tmp_path / "slim.fxprune")
    assert list(tmp_path.iterdir()) == []
    assert isinstance(model, Convolutions)


def test_the_safetensors_library_reads_the_weights(tmp_path: Path) -> None:
    import zipfile

    from safetensors.torch import load

    slim, _, _ = compiled("bfloat16")
    fxprune.save(slim, tmp_path / "slim.fxprune")
    with zipfile.ZipFile(tmp_path / "slim.fxprune") as archive:
        weights = load(archive.read("weights.safetensors"))
    for name, tensor in slim.state_dict().items():
        assert torch.equal(weights[name], tensor)
