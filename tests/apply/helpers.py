"""Cuts, and the comparison that every test ends with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune.apply import apply

Module = TypeVar("Module", bound=nn.Module)


def check(model: Module, inputs: Any, budget: Any = "60%", **options: Any) -> tuple[Module, fxprune.SlimModule]:
    """Compile and apply; the copy has the slim module's tensors and outputs, and the model is as it was."""
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {path: dict(module.__dict__) for path, module in model.named_modules()}
    slim = fxprune.compile(model, budget, example_inputs=inputs, **options)
    made = apply(slim, model)
    assert type(made) is type(model)
    same(made, slim, inputs)
    assert {n: t.shape for n, t in made.state_dict().items()} == {n: t.shape for n, t in slim.state_dict().items()}
    assert any(made.state_dict()[name].shape != tensor.shape for name, tensor in before.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for path, module in model.named_modules():
        numbers = {name: value for name, value in module.__dict__.items() if isinstance(value, int | tuple)}
        assert numbers == {name: attributes[path][name] for name in numbers}
    return made, slim


def same(made: nn.Module, slim: nn.Module, inputs: Any) -> None:
    """Equal outputs in eval mode."""
    with torch.no_grad():
        pair = [
            tree_leaves(copy.deepcopy(each).eval()(**inputs) if isinstance(inputs, dict) else each(*_tuple(inputs)))
            for each in (made, slim)
        ]
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def equal_plan(
    model: nn.Module, inputs: Any, widths: Sequence[int], groups: Sequence[Any] | None = None
) -> fxprune.Plan:
    """A plan that keeps the first indices of some groups, or of all."""
    kept: dict[str, Any] = {}
    for group, width in zip(groups or fxprune.analyze(model, inputs).groups, widths, strict=True):
        first = list(range(width))
        kept[group.name] = first if group.outer is None else [first] * group.outer.size
    return fxprune.Plan(kept=kept, slices={}, widths={})


def _tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)
