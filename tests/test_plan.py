"""Plans: what they say is what was done, and JSON says the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import CheckpointError, Plan
from tests.reference.parameters import parameter_mask


def grouped() -> nn.Module:
    """Nested choices: inputs of a grouped convolution, and heads with their dimensions."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(64, 5, 1),
    )


def attention() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), nn.Linear(64, 5))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "grouped": (grouped, torch.randn(2, 3, 8, 8)),
    "attention": (attention, torch.randn(2, 5, 64)),
}


@pytest.fixture(scope="module", params=MODELS)
def compiled(request: pytest.FixtureRequest) -> tuple[nn.Module, fxprune.SlimModule]:
    build, x = MODELS[request.param]
    model = build()
    return model, fxprune.compile(model, "50%", example_inputs=x)


def test_slices_say_what_was_cut(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    """Reading the slices by their definition gives every tensor of the slim model."""
    model, slim = compiled
    slimmed = {**dict(slim.named_parameters()), **dict(slim.named_buffers())}
    assert slim.plan.slices
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        mask = parameter_mask(tensor.shape, slim.plan.slices.get(name, {}))
        assert torch.equal(tensor[mask], slimmed[name].flatten()), name


def test_slices_hold_only_what_lost_something(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    model, slim = compiled
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    slimmed = slim.state_dict()
    changed = {name for name in shapes if shapes[name] != slimmed[name].shape}
    assert set(slim.plan.slices) == changed
    for name, dims in slim.plan.slices.items():
        lost = {dim for dim in range(len(shapes[name])) if shapes[name][dim] != slimmed[name].shape[dim]}
        assert set(dims) == lost


def test_kept_indices_are_sorted_and_as_many_as_the_widths(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    _, slim = compiled
    groups = {group.name: group for group in fxprune.analyze(*_pair(compiled)).groups}
    assert set(slim.plan.widths) == set(groups)
    assert set(slim.plan.kept) == {name for name, (after, before) in slim.plan.widths.items() if after < before}
    for name, kept in slim.plan.kept.items():
        rows: list[Any] = kept if isinstance(kept[0], list) else [kept]
        assert all(row == sorted(set(row)) for row in rows)
        assert {len(row) for row in rows} == {slim.plan.widths[name][0]}
        assert all(0 <= index < groups[name].size for row in rows for index in row)
        outer = groups[name].outer
        assert isinstance(kept[0], list) == (outer is not None)
        if outer is not None:
            assert len(kept) == outer.size


def _pair(compiled: tuple[nn.Module, fxprune.SlimModule]) -> tuple[nn.Module, Any]:
    model, slim = compiled
    return model, slim.example_inputs[0]


def test_a_plan_knows_where_it_comes_from(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    model, slim = compiled
    plan = slim.plan
    assert plan.budget == {"flops": "50%"}
    assert (plan.scorer, plan.search, plan.seed, plan.dropped) == ("magnitude", "knapsack", 0, ())
    assert set(plan.versions) == {"fxprune", "torch"}
    assert plan.versions["torch"] == torch.__version__
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert plan.signature == {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()
    }


def test_tied_names_are_all_listed() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 4))
    model[3].weight = model[1].weight
    plan = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8)).plan
    assert plan.slices["1.weight"] == plan.slices["3.weight"]
    assert set(plan.slices["1.weight"]) == {0, 1}


def test_json_makes_the_round_trip(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    _, slim = compiled
    text = slim.plan.to_json()
    again = Plan.from_json(text)
    assert again == slim.plan
    assert again.to_json() == text
    assert dataclasses.asdict(again) == dataclasses.asdict(slim.plan)
    assert json.loads(text)["schema"] == 1


def test_budgets_of_every_form_make_the_round_trip() -> None:
    model, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(2, 8)
    for budget in (0.5, {"flops": 0.5, "params": 500, "memory": "3 kB"}, {"params": "60%"}):
        plan = fxprune.compile(model, budget, example_inputs=x, seed=3).plan  # type: ignore[arg-type]
        assert Plan.from_json(plan.to_json()) == plan
        assert plan.seed == 3


def test_budgets_of_numpy_make_the_round_trip() -> None:
    model, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(2, 8)
    plan = fxprune.compile(model, np.float32(0.5), example_inputs=x).plan  # type: ignore[arg-type]
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_is_frozen(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        compiled[1].plan.seed = 3  # type: ignore[misc]


def damage(change: Callable[[dict[str, Any]], Any]) -> str:
    model, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(2, 8)
    data = json.loads(fxprune.compile(model, "50%", example_inputs=x).plan.to_json())
    change(data)
    return json.dumps(data)


def test_another_schema() -> None:
    text = damage(lambda data: data.update(schema=2))
    with pytest.raises(CheckpointError, match=r"schema 2; .* reads schema 1. Update fxprune"):
        Plan.from_json(text)


def test_a_truncated_text(compiled: tuple[nn.Module, fxprune.SlimModule]) -> None:
    text = compiled[1].plan.to_json()
    for end in (0, 1, len(text) // 2, len(text) - 1):
        with pytest.raises(CheckpointError):
            Plan.from_json(text[:end])


FIELDS = ("kept", "slices", "widths", "dropped", "budget", "scorer", "search", "seed", "signature", "versions")


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field(field: str) -> None:
    text = damage(lambda data: data.pop(field))
    with pytest.raises(CheckpointError, match=field):
        Plan.from_json(text)


CAUGHT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "slices is a list": lambda data: data.update(slices=[1]),
    "a dimension is a word": lambda data: data["slices"].update({"0.weight": {"rows": [1]}}),
    "widths are numbers": lambda data: data["widths"].update({"0": 3}),
    "a signature is a number": lambda data: data["signature"].update({"0.weight": 3}),
    "dropped is a number": lambda data: data.update(dropped=3),
}
UNCAUGHT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "kept is a list": lambda data: data.update(kept=[1]),
    "kept indices are words": lambda data: data["kept"].update({"0": ["a", "b"]}),
    "kept indices are negative": lambda data: data["kept"].update({"0": [-1, 2]}),
    "kept indices are unsorted": lambda data: data["kept"].update({"0": [5, 2]}),
    "kept indices repeat": lambda data: data["kept"].update({"0": [2, 2]}),
    "a slice is a number": lambda data: data["slices"].update({"0.weight": {"0": 3}}),
    "a slice is beyond the tensor": lambda data: data["slices"]["0.weight"].update({"0": [99]}),
    "a slice of an unknown tensor": lambda data: data["slices"].update({"nothing": {"0": [1]}}),
    "a width above the size": lambda data: data["widths"].update({"0": [65, 64]}),
    "the seed is a word": lambda data: data.update(seed="three"),
    "the scorer is a number": lambda data: data.update(scorer=3),
    "the budget is a list": lambda data: data.update(budget=["50%"]),
    "dropped is a word": lambda data: data.update(dropped="layer4"),
    "an unknown field": lambda data: data.update(surprise=1),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_damaged_fields(name: str) -> None:
    text = damage(CAUGHT[name])
    with pytest.raises(CheckpointError):
        Plan.from_json(text)


@pytest.mark.parametrize("name", UNCAUGHT)
def test_fields_that_hold_something_else(name: str) -> None:
    text = damage(UNCAUGHT[name])
    with pytest.raises(CheckpointError):
        Plan.from_json(text)
