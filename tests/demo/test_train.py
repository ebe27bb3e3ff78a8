from __future__ import annotations

import torch
from torch import nn

from fxprune.demo.digits import Digits, load_digits
from fxprune.demo.train import Recipe, accuracy, train


def trained(data: Digits, seed: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    train(model, data, Recipe(epochs=3, peak_rate=0.1, shift=0), seed=seed)
    return model


def test_training_learns_and_follows_the_seed() -> None:
    data = load_digits(side=8)
    first, again, other = (trained(data, seed) for seed in (1, 1, 2))
    weights = [model.get_parameter("1.weight") for model in (first, again, other)]
    assert accuracy(first, data) > 0.9
    assert not first.training
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
