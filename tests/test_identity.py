"""Keeping everything changes nothing, and compiling never changes the user's model."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

import fxprune
from tests.randomgraphs import random_module


class Everything(nn.Module):
    """State of every kind: buffers in and out of the state dict, frozen and tied parameters, hooks, gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.group_norm = nn.GroupNorm(4, 32)
        self.drop = nn.Dropout(0.5)
        self.left = nn.Linear(32, 48)
        self.right = nn.Linear(32, 48)
        self.right.weight = self.left.weight
        self.head = nn.Linear(48, 5)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 32).reshape(1, 32, 1, 1))
        self.register_buffer("hidden", torch.linspace(-1, 1, 48), persistent=False)
        self.calls = 0
        self.memory: list[int] = []
        self.second.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.memory.append(x.shape[0])
        x = functional.relu(self.norm(self.stem(x)))
        x = x + self.group_norm(self.second(x)) * self.scale
        x = self.drop(x.mean((2, 3)))
        out: Tensor = self.head(functional.gelu(self.left(x)) + self.right(x) * self.hidden)
        return out


def everything() -> nn.Module:
    """The model as a user may hold it: in training, but for a frozen part, with gradients and hooks."""
    torch.manual_seed(0)
    model = Everything()
    model.train()
    model.norm.eval()
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    model.head.register_forward_hook(lambda module, args, output: None)
    model.stem.weight.register_hook(lambda gradient: gradient)
    return model


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 5)).eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
MODELS: Mapping[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "everything": (everything, IMAGES),
    "transformer": (transformer, TOKENS),
}
PLENTY: tuple[Any, ...] = ("100%", 1.0, {"params": 1e12}, {"memory": "1 TB", "flops": 1e15})


def outputs(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """What a module returns; attention layers by their parts, as they are captured, not by their fused kernel."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return list(tree_leaves(module.eval()(*(each.clone() for each in inputs))))
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a user can see of a model, copied."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path} identity"] = id(module)
        found[f"{path} training"] = module.training
        plain = {key: each for key, each in vars(module).items() if not key.startswith("_")}
        found[f"{path} attributes"] = (list(vars(module)), copy.deepcopy(plain))
        hooks = {key: each for key, each in vars(module).items() if key.endswith("_hooks")}
        found[f"{path} hooks"] = {key: list(each.values()) for key, each in hooks.items()}
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        grad = tensor.grad
        found[f"{name} tensor"] = (
            id(tensor),
            tensor.data_ptr(),
            tensor._version,
            tensor.stride(),
            tensor.requires_grad,
        )
        found[f"{name} values"] = tensor.detach().clone().numpy().tobytes()
        found[f"{name} gradient"] = None if grad is None else (id(grad), grad._version, grad.numpy().tobytes())
        found[f"{name} hooks"] = list((tensor._backward_hooks or {}).values())
    return found


def storages(module: nn.Module) -> set[int]:
    """Addresses of the memory that a module's tensors lie in."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [each for each in (getattr(module, name, None) for name in vars(module)) if isinstance(each, Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@pytest.mark.parametrize("budget", PLENTY, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_keeping_everything_is_the_identity(name: str, budget: Any) -> None:
    build, x = MODELS[name]
    model = build()
    slim = fxprune.compile(model, budget, example_inputs=x)
    assert slim.plan.kept == {}
    assert slim.plan.slices == {}
    assert slim.report.error == 0
    for inputs in (x, torch.cat([x, -x, 2 * x])):
        for one, other in zip(outputs(model, inputs), outputs(slim, inputs), strict=True):
            assert torch.equal(one, other)
    assert [metric.before for metric in slim.report.metrics] == [metric.after for metric in slim.report.metrics]
    before, after = model.state_dict(), slim.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("seed", range(40))
def test_keeping_everything_of_random_modules_is_the_identity(seed: int) -> None:
    model, inputs = random_module(seed)
    slim = fxprune.compile(model, "100%", example_inputs=inputs)
    for one, other in zip(outputs(model, *inputs), outputs(slim, *inputs), strict=True):
        assert torch.equal(one, other), model.describe()


@pytest.mark.parametrize("budget", ["100%", "50%"])
@pytest.mark.parametrize("name", MODELS)
def test_the_users_model_is_untouched(name: str, budget: str) -> None:
    build, x = MODELS[name]
    model = build()
    known = x.clone()
    before = snapshot(model)
    fxprune.compile(model, budget, example_inputs=x)
    after = snapshot(model)
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == []
    assert torch.equal(x, known)


@pytest.mark.parametrize("failing", [{"budget": "0.1%"}, {"ignore": ["nothing*"]}, {"search": "nothing"}])
def test_the_users_model_is_untouched_by_a_failure(failing: dict[str, Any]) -> None:
    model = everything()
    before = snapshot(model)
    with pytest.raises(fxprune.FxpruneError):
        fxprune.compile(model, **{"budget": "50%", "example_inputs": IMAGES} | failing)
    assert before == snapshot(model)


@pytest.mark.parametrize("budget", ["100%", "50%"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_shared(name: str, budget: str) -> None:
    build, x = MODELS[name]
    model = build()
    slim = fxprune.compile(model, budget, example_inputs=x)
    assert not storages(model) & storages(slim)
    expected = outputs(copy.deepcopy(model), x)
    with torch.no_grad():
        for parameter in slim.parameters():
            parameter.add_(1)
    for one, other in zip(expected, outputs(model, x), strict=True):
        assert torch.equal(one, other)


class Counts(nn.Module):
    """Counts its calls in a buffer, in eval mode too."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 64), nn.Linear(64, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.head(self.body(x).relu()) * self.calls
        return out


def test_buffers_that_forward_writes_to_are_untouched() -> None:
    model = Counts()
    slim = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8))
    assert float(model.calls) == 0
    assert float(slim.get_buffer("calls")) == 0


def test_random_generators_are_untouched() -> None:
    model = everything()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    fxprune.compile(model, "50%", example_inputs=IMAGES)
    after = (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_global_settings_are_untouched() -> None:
    before = (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_default_dtype())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            slim = fxprune.compile(transformer(), "50%", example_inputs=TOKENS)
            assert torch.is_grad_enabled() is grad
    assert before == (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_default_dtype())
    assert all(parameter.requires_grad for parameter in slim.parameters())


def test_inputs_made_in_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(2, 3, 8, 8)
    slim = fxprune.compile(everything(), "50%", example_inputs=x)
    slim.train()(torch.randn(2, 3, 8, 8)).sum().backward()


def test_examples_that_ask_for_gradients() -> None:
    x = IMAGES.clone().requires_grad_()
    slim = fxprune.compile(everything(), "50%", example_inputs=x)
    assert x.grad is None
    assert slim.report.error is not None
