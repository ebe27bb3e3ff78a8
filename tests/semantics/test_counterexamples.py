"""Counterexamples that random graphs and real models brought up, each kept as a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.randomgraphs import random_module
from tests.semantics.test_random_graphs import check

SEEDS = {
    152: "GroupNorm with one channel per group",
}


@pytest.mark.parametrize("seed", SEEDS, ids=SEEDS.values())
def test_counterexample(seed: int) -> None:
    model, inputs = random_module(seed)
    check(model, inputs, seed, plans=4)


class InterleavedRotary(nn.Module):
    """Pairs of neighbouring dimensions are rotated: strided slices, put together again by a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 16)
        self.angles = nn.Parameter(torch.randn(8))
        self.down = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.up(x)
        even, odd = features[..., ::2], features[..., 1::2]
        rotated = torch.stack([-odd, even], dim=-1).flatten(-2)
        angles = self.angles.repeat_interleave(2, dim=-1)
        mixed: Tensor = self.down(features * angles.cos() + rotated * angles.sin())
        return mixed


class InnerBeforeOuter(nn.Module):
    """A mean over channels that stand before the groups within which they were chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 12, 1)
        self.grouped = nn.Conv2d(12, 6, 3, padding=1, groups=3)
        self.down = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.a(x)
        turned = wide.unflatten(1, (3, 4)).transpose(1, 2)
        gate = turned.mean((-1, -2), keepdim=True).transpose(1, 2).flatten(1, 2)
        pooled: Tensor = self.down(self.grouped(wide * gate).mean((-1, -2)))
        return pooled


class ExpandedByBatchAndHeads(nn.Module):
    """A table without batch is expanded to as many rows as batch and heads make: a symbolic size that is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.table = nn.Parameter(torch.randn(1, 5, 5))
        self.down = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.up(x).unflatten(-1, (4, 2)).transpose(1, 2).flatten(0, 1)
        mixed = self.table.expand(heads.size(0), 5, 5) @ heads
        joined: Tensor = self.down(mixed.reshape(x.size(0), 4, 5, 2).transpose(1, 2).flatten(2))
        return joined


MODULES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (InterleavedRotary, (3, 5, 6)),
    (InnerBeforeOuter, (3, 4, 5, 5)),
    (ExpandedByBatchAndHeads, (3, 5, 6)),
]


@pytest.mark.parametrize(("build", "shape"), MODULES, ids=[build.__name__ for build, _ in MODULES])
def test_module(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(build().double().eval(), (torch.randn(shape, dtype=torch.float64),), seed=0, plans=8)
