"""Costs of real models, uncut, against torch's counter; speed of building and evaluating them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fxprune.analysis import analyze, analyze_program
from fxprune.capture import capture
from fxprune.costs import build_costs
from tests.costs.count import counted, original, parameters
from tests.costs.nets import NETS, REAL, slow, torchvision_model


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_small_models_at_the_examples_own_batch_size(name: str, batch: int) -> None:
    build, shape = NETS[name]
    model, x = build().eval(), torch.randn(batch, *shape[1:])
    costs = analyze(model, x).costs.original
    assert costs["flops"] == counted(model, x)
    assert costs["params"] == parameters(model)
    assert costs == original(model, x)


@pytest.mark.parametrize("name", ["resnet18", "small vit", "small densenet", *map(slow, REAL)])
def testtorchvision_model(name: str) -> None:
    size = 64 if name.startswith("small") else 224
    model, x = torchvision_model(name), torch.randn(1, 3, size, size)
    costs = analyze(model, x).costs.original
    assert costs["flops"] == counted(model, x)
    assert costs["params"] == parameters(model)


def test_keyword_inputs_in_another_order() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.a(x).mean(1) + self.b(y)
            return out

    inputs = {"y": torch.randn(4, 6), "x": torch.randn(4, 5, 3)}
    assert original(Two(), inputs)["flops"] == counted(Two(), inputs)


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    costs = original(model, torch.randn(2, 6))
    assert costs["params"] == parameters(model) == 48
    assert costs["flops"] == 2 * 2 * 2 * 36


def _best_of(repeats: int, action: Any) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def test_a_hundred_thousand_candidates_a_second() -> None:
    costs = analyze(torchvision_model("resnet50"), torch.randn(1, 3, 224, 224)).costs
    widths = np.random.default_rng(0).integers(1, costs.sizes + 1, size=(20_000, len(costs.sizes)))
    assert _best_of(3, lambda: costs.evaluate(widths, ("flops", "params"))) < 0.2
    assert _best_of(3, lambda: costs.evaluate(widths, ("memory",))) < 1.0


@pytest.mark.slow
def test_building_is_fast() -> None:
    program = capture(torchvision_model("densenet121"), torch.randn(1, 3, 64, 64))
    analysis = analyze_program(program)
    assert _best_of(3, lambda: build_costs(program, analysis.propagation, analysis.groups)) < 0.2
