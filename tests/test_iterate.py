"""Pruning in stages: cuts compose, weights follow, the plan speaks of the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.compose import composed, corresponding
from fxprune.errors import InputError
from tests.costs.count import counted
from tests.test_compile import Net, net
from tests.test_compile import X as IMAGES

X = torch.linspace(-1, 1, 16).reshape(2, 8)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


class Attention(nn.Module):
    """Heads whose dimensions are chosen head by head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = 8
        self.q, self.k, self.v = (nn.Linear(32, 64) for _ in range(3))
        self.out = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def shaken(seed: int = 0) -> Callable[[nn.Module], None]:
    """Fine-tuning that changes every parameter."""
    random = torch.Generator().manual_seed(seed)

    def finetune(slim: nn.Module) -> None:
        slim.train()
        with torch.no_grad():
            for parameter in slim.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)

    return finetune


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, float]] = {
    "perceptron": (perceptron, X, 0.25),
    "convolutions, groups, residual": (net, IMAGES, 0.3),
    "attention": (Attention, torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)), 0.4),
}


@pytest.mark.parametrize(("case", "schedule"), [*((case, "geometric") for case in CASES), ("perceptron", "linear")])
def test_stages_compose_to_one_plan_of_the_original(case: str, schedule: str) -> None:
    """Weights, costs and outputs are those of the last stage, also in the user's own class."""
    make, x, share = CASES[case]
    model, tune = make(), shaken()
    seen: list[nn.Module] = []

    def finetune(slim: fxprune.SlimModule) -> None:
        seen.append(slim)
        tune(slim)

    slim = fxprune.iterate(model, share, steps=3, finetune=finetune, schedule=schedule, example_inputs=x)
    assert len(seen) == 3
    last = seen[-1]
    assert {name: tensor.shape for name, tensor in slim.state_dict().items()} == {
        name: tensor.shape for name, tensor in last.state_dict().items()
    }
    assert slim.training
    torch.testing.assert_close(slim.eval()(x), last.eval()(x))
    original = counted(model, x)
    flops = [counted(each, x) for each in seen]
    assert original > flops[0] > flops[1] > flops[2] == counted(slim, x)
    assert flops[2] <= share * original
    middle = original * (share ** (1 / 3) if schedule == "geometric" else 1 - (1 - share) / 3)
    assert flops[0] <= middle
    assert slim.report.error is not None
    assert "pruned in 3 stages" in str(slim.report)
    assert fxprune.Plan.from_json(slim.plan.to_json()) == slim.plan
    torch.testing.assert_close(fxprune.apply(slim, model).eval()(x), slim(x))


@pytest.mark.parametrize("case", CASES)
def test_without_fine_tuning_the_weights_are_slices_of_the_originals(case: str) -> None:
    """Every weight of the last stage is the original's at the plan's indices: the composed indices are the right ones."""
    make, x, share = CASES[case]
    model = make()
    seen: list[nn.Module] = []
    slim = fxprune.iterate(model, share, steps=3, finetune=seen.append, example_inputs=x)
    alone = fxprune.apply(slim.plan, model, example_inputs=x).state_dict()
    last = seen[-1].state_dict()
    assert alone.keys() == last.keys()
    for name, tensor in last.items():
        assert torch.equal(tensor, alone[name]), name


def test_one_step_is_compile() -> None:
    one = fxprune.iterate(net(), "50%", steps=1, finetune=lambda slim: None, example_inputs=IMAGES)
    alone = fxprune.compile(net(), "50%", example_inputs=IMAGES)
    assert one.plan == alone.plan
    assert torch.equal(one(IMAGES), alone(IMAGES))


def test_alignment_and_floors_are_the_originals() -> None:
    options: dict[str, Any] = {"align": 8, "floor": 0.25, "example_inputs": X}
    slim = fxprune.iterate(perceptron(), "20%", steps=3, finetune=lambda slim: None, **options)
    assert {kept % 8 for kept, _ in slim.plan.widths.values()} == {0}
    assert min(kept for kept, _ in slim.plan.widths.values()) >= 16
    with pytest.raises(fxprune.InfeasibleBudget):
        fxprune.iterate(perceptron(), "5%", steps=3, finetune=lambda slim: None, **options)


def test_ignored_and_dropped_parts_stay_so_through_the_stages() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.down(self.up(x).relu())
            return out

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), *(Layer() for _ in range(3)), nn.Linear(32, 4))
    options: dict[str, Any] = {"ignore": ["1", "2.up.bias"], "drop": ["2"], "example_inputs": X}
    slim = fxprune.iterate(model, "50%", steps=2, finetune=shaken(), **options)
    assert slim.plan.dropped == ("2",)
    assert slim.get_parameter("1.up.weight").shape == (64, 32)
    assert slim.get_parameter("3.up.weight").shape[0] < 64


def test_fine_tuning_may_return_a_module() -> None:
    def finetune(slim: fxprune.SlimModule) -> nn.Module:
        import copy

        other = copy.deepcopy(slim)
        with torch.no_grad():
            other.get_parameter("4.bias").fill_(3.0)
        return other

    slim = fxprune.iterate(perceptron(), "50%", steps=2, finetune=finetune, example_inputs=X)
    assert slim.get_parameter("4.bias").tolist() == [3.0] * 4
    wrong: Any
    for wrong, expected in ((lambda slim: nn.Linear(2, 2), "Linear whose state dict"), (lambda slim: 0.9, "a float")):
        with pytest.raises(InputError, match=expected):
            fxprune.iterate(perceptron(), "50%", steps=2, finetune=wrong, example_inputs=X)


def test_arguments_that_are_no_use() -> None:
    good: dict[str, Any] = {"steps": 2, "finetune": lambda slim: None, "example_inputs": X}
    for changed, expected in (
        ({"steps": 0}, "steps=0"),
        ({"finetune": 3}, "is a int"),
        ({"schedule": "x"}, "'linear'"),
    ):
        with pytest.raises(InputError, match=expected):
            fxprune.iterate(perceptron(), "50%", **{**good, **changed})
    with pytest.raises(TypeError, match=r"iterate\(\) got an unexpected keyword argument 'epochs'"):
        fxprune.iterate(perceptron(), "50%", epochs=3, **good)


def test_nested_choices_compose_row_by_row() -> None:
    model = Net().eval()
    original = fxprune.analyze(model, IMAGES)
    (outer, nested) = next((o, g) for g in original.groups for o in original.groups if g.outer == o.variable)
    random = np.random.default_rng(0)
    rows = np.stack([np.sort(random.permutation(nested.size)[: nested.size - 2]) for _ in range(outer.size)])
    first = {outer.name: np.arange(1, outer.size, 2), nested.name: rows}
    later = np.stack([np.sort(random.permutation(rows.shape[1])[:3]) for _ in first[outer.name]])
    names = {outer.name: outer.name, nested.name: nested.name}
    found = composed(original, first, {nested.name: later, outer.name: np.array([0, 2])}, names)
    assert found[outer.name].tolist() == [1, 5]
    for at, row in enumerate(first[outer.name]):
        assert found[nested.name][row].tolist() == rows[row][later[at]].tolist()


def test_a_group_without_a_counterpart_is_named() -> None:
    original = fxprune.analyze(perceptron(), X)
    other = fxprune.analyze(nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 4)), X)
    with pytest.raises(InputError, match=r"group '0' \(48 features\) of the slim model corresponds to 0 groups"):
        corresponding(original, {}, other)
