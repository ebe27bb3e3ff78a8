"""The user's own class comes back slimmed, trains on with its optimizer, is saved and restored again."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import CheckpointError
from fxprune.files.record import record_of
from tests.files.nets import Attention, Convolutions, call, compiled, make


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def saved(name: str, folder: Path) -> tuple[Path, Any]:
    slim, _, inputs = compiled(name)
    fxprune.save(slim, folder / "slim.fxprune")
    return folder / "slim.fxprune", inputs


def fresh(name: str) -> nn.Module:
    """A model of the same class with weights of its own."""
    model, _ = make(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


@pytest.mark.parametrize("name", ["convolutions", "tied", "attention", "bfloat16", "recurrent"])
def test_the_own_class_has_the_weights_of_the_file(name: str, tmp_path: Path) -> None:
    path, inputs = saved(name, tmp_path)
    model = fresh(name)
    before = copy.deepcopy(model.state_dict())
    restored = fxprune.restore(model, path)
    loaded = fxprune.load(path)
    assert type(restored).__name__ == type(model).__name__
    assert isinstance(restored, type(model))
    torch.testing.assert_close(call(restored, inputs), call(loaded, inputs))
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(restored.state_dict()[key], tensor)
    for key, tensor in before.items():
        assert torch.equal(model.state_dict()[key], tensor)


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Restore, train, save, restore, load the optimizer's state, train: as if nothing had been in between."""
    path, (images,) = saved("convolutions", tmp_path)
    whole = fxprune.restore(fresh("convolutions"), path).train()
    whole.drop.p = 0.0  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(whole.parameters(), 0.01)
    step(whole, optimizer, images)
    fxprune.save(whole, tmp_path / "half.fxprune")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    step(whole, optimizer, images)

    resumed = fxprune.restore(fresh("convolutions"), tmp_path / "half.fxprune")
    assert all(each.training for each in resumed.modules())
    resumed.drop.p = 0.0  # type: ignore[union-attr]
    again = torch.optim.AdamW(resumed.parameters(), 0.01)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    step(resumed, again, images)
    for (name, one), (other, two) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(one, two), name


@pytest.mark.parametrize("name", ["convolutions", "nested", "tied"])
def test_what_apply_made_is_saved_with_its_graph(name: str, tmp_path: Path) -> None:
    slim, model, inputs = compiled(name)
    small = fxprune.apply(slim, model, example_inputs=inputs)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.5)
    for copied in (small, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        fxprune.save(copied, tmp_path / "own.fxprune")
        loaded = fxprune.load(tmp_path / "own.fxprune")
        torch.testing.assert_close(call(loaded, inputs), call(small, inputs), equal_nan=True)
        assert loaded.plan == slim.plan
        assert loaded.report == slim.report
    assert set(small.state_dict()) == set(model.state_dict())


def test_frozen_parameters_and_modes_are_the_files(tmp_path: Path) -> None:
    path, _ = saved("convolutions", tmp_path)
    restored = fxprune.restore(fresh("convolutions"), path)
    restored.train()
    restored.norm.eval()  # type: ignore[union-attr]
    restored.stem.weight.requires_grad_(False)  # type: ignore[union-attr]
    fxprune.save(restored, path)
    again = fxprune.restore(fresh("convolutions"), path)
    assert [each.training for each in again.modules()] == [each.training for each in restored.modules()]
    assert [n for n, each in again.named_parameters() if not each.requires_grad] == ["stem.weight"]


def test_a_converted_model_is_saved_in_its_type(tmp_path: Path) -> None:
    path, (x,) = saved("attention", tmp_path)
    restored = fxprune.restore(fresh("attention"), path).bfloat16()
    fxprune.save(restored, path)
    assert {each.dtype for each in fxprune.load(path).parameters()} == {torch.bfloat16}
    torch.testing.assert_close(fxprune.load(path)(x.bfloat16()), restored(x.bfloat16()))


def test_a_state_dict_of_the_slim_module_fits(tmp_path: Path) -> None:
    path, inputs = saved("convolutions", tmp_path)
    slim, model, _ = compiled("convolutions")
    restored = fxprune.restore(model, slim.plan, example_inputs=inputs)
    restored.load_state_dict(slim.state_dict())
    torch.testing.assert_close(call(restored, inputs), call(slim, inputs))
    assert path.exists()


def test_plans_by_themselves(tmp_path: Path) -> None:
    slim, model, inputs = compiled("convolutions")
    slim.plan.save(tmp_path / "plan.json")
    restored = fxprune.restore(model, tmp_path / "plan.json", example_inputs=inputs)
    torch.testing.assert_close(call(restored, inputs), call(slim, inputs))
    fxprune.save(restored, tmp_path / "slim.fxprune")
    loaded = fxprune.load(tmp_path / "slim.fxprune")
    with pytest.raises(fxprune.InputError, match="made from a plan"):
        _ = loaded.report


def test_another_model_is_refused_with_the_difference(tmp_path: Path) -> None:
    path, _ = saved("convolutions", tmp_path)
    other = Convolutions()
    other.stem = nn.Conv2d(3, 24, 3)
    with pytest.raises(CheckpointError, match=r"stem\.weight has shape \(16, 3, 3, 3\) there, .* has \(24, 3, 3, 3\)"):
        fxprune.restore(other, path)
    with pytest.raises(CheckpointError, match="has nothing of that name"):
        fxprune.restore(Attention(), path)
    with pytest.raises(fxprune.InputError, match="restore takes the model, then a path"):
        fxprune.restore(other, 3)  # type: ignore[arg-type]


def test_a_model_that_has_changed_is_refused(tmp_path: Path) -> None:
    slim, model, inputs = compiled("convolutions")
    small = fxprune.apply(slim, model, example_inputs=inputs)
    small.more = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"has more\.weight, which the plan does not know"):
        fxprune.save(small, tmp_path / "slim.fxprune")
    del small.more
    small.head = nn.Linear(3, 7)
    with pytest.raises(CheckpointError, match=r"head\.weight of this Convolutions has shape \[7, 3\], its plan says"):
        fxprune.save(small, tmp_path / "slim.fxprune")
    del small.head
    with pytest.raises(CheckpointError, match=r"no longer has head\.weight"):
        fxprune.save(small, tmp_path / "slim.fxprune")
    assert record_of(model) is None
    assert not list(tmp_path.iterdir())


def test_what_was_restored_is_pruned_again(tmp_path: Path) -> None:
    path, inputs = saved("convolutions", tmp_path)
    restored = fxprune.restore(fresh("convolutions"), path)
    slim = fxprune.compile(restored, {"params": "80%"}, example_inputs=inputs, progress=False)
    smaller = fxprune.apply(slim, restored)
    fxprune.save(smaller, path)
    torch.testing.assert_close(call(fxprune.restore(restored, path), inputs), call(slim, inputs))
    with pytest.raises(CheckpointError, match="another model"):
        fxprune.restore(fresh("convolutions"), path)


class Places(nn.Module):
    """A table of float32 in a bfloat16 model, which the graph has as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        table = torch.tensor([1.0, 1.001, 1.002, 1.003])
        out: Tensor = (self.down(torch.relu(self.up(x))).float() * table).to(x.dtype)
        return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_constants_keep_their_type_unless_the_model_is_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = Places().to(dtype).eval(), torch.randn(3, 8, dtype=dtype)
    slim = fxprune.compile(model, {"params": "80%"}, example_inputs=(x,), progress=False)
    fxprune.save(fxprune.apply(slim, model), tmp_path / "slim.fxprune")
    loaded = fxprune.load(tmp_path / "slim.fxprune")
    assert {n: t.dtype for n, t in loaded.named_buffers()} == {n: t.dtype for n, t in slim.named_buffers()}
    assert torch.equal(loaded(x), slim(x))
