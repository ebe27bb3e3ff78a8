"""The roofline: the longer of arithmetic and memory for every product, memory for the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis import Analysis
from fxprune.costs.roofline import INTENSITY, ROOFLINE, find_roofline
from fxprune.search import FurtherCosts


def roofline_of(analysis: Analysis) -> FurtherCosts:
    roofline = find_roofline(analysis.program, analysis.propagation, analysis.groups)
    return FurtherCosts(analysis.costs, ROOFLINE, roofline.times)


def time_at(costs: FurtherCosts, **widths: int) -> float:
    row = np.array([[widths.get(name, size) for name, size in zip(costs.groups, costs.sizes, strict=True)]])
    return float(costs.evaluate(row, (ROOFLINE,))[ROOFLINE][0])


class Net(nn.Module):
    """A product bound by arithmetic, one bound by memory, and operations that only move elements."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 512, 3, padding=1)
        self.narrow = nn.Conv2d(512, 256, 1)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(torch.relu_(self.wide(x)))
        out: Tensor = self.head((x * torch.sigmoid(x)).mean((2, 3)).view(x.shape[0], -1))
        return out


@pytest.mark.parametrize(("wide", "narrow"), [(512, 256), (512, 8), (16, 256), (104, 64)])
def test_it_is_the_longer_of_arithmetic_and_memory(wide: int, narrow: int) -> None:
    costs = roofline_of(fxprune.analyze(Net(), torch.randn(3, 8, 5, 7)))
    pixels = 3 * 5 * 7
    first = max(2 * pixels * 9 * 8 * wide / INTENSITY, pixels * (8 + wide))
    second = max(2 * pixels * wide * narrow / INTENSITY, pixels * (wide + narrow))
    last = max(2 * 3 * narrow * 10 / INTENSITY, 3 * (narrow + 10))
    moved = pixels * 2 * wide  # relu_, in place
    moved += pixels * 2 * narrow + pixels * 3 * narrow  # sigmoid, product
    moved += pixels * narrow + 3 * narrow  # mean; the view moves nothing
    assert time_at(costs, wide=wide, narrow=narrow) == pytest.approx(first + second + last + moved)


def test_it_comes_beside_the_other_costs_and_never_falls_with_a_width() -> None:
    analysis = fxprune.analyze(Net(), torch.randn(2, 8, 6, 6))
    costs = roofline_of(analysis)
    random = np.random.default_rng(0)
    widths = np.sort(random.integers(1, analysis.costs.sizes + 1, (400, 2)), axis=0)
    found = costs.evaluate(widths, ("params", ROOFLINE, "flops"))
    assert (found["flops"] == analysis.costs.evaluate(widths, ("flops",))["flops"]).all()
    assert (found["params"] == analysis.costs.evaluate(widths, ("params",))["params"]).all()
    assert (np.diff(found[ROOFLINE]) >= 0).all()


def test_candidates_in_many_parts_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = roofline_of(fxprune.analyze(Net(), torch.randn(2, 8, 6, 6)))
    widths = np.random.default_rng(0).integers(1, costs.sizes + 1, (300, 2))
    whole = costs.evaluate(widths)[ROOFLINE]
    monkeypatch.setattr("fxprune.costs.polynomial.CHUNK", 1)
    assert (costs.evaluate(widths)[ROOFLINE] == whole).all()
    assert costs.evaluate(widths[:0])[ROOFLINE].shape == (0,)


def test_the_batch_size_only_scales_it() -> None:
    one, many = (roofline_of(fxprune.analyze(Net(), torch.randn(batch, 8, 6, 6))) for batch in (2, 32))
    for widths in ({}, {"wide": 64}, {"narrow": 8}):
        assert time_at(many, **widths) == pytest.approx(16 * time_at(one, **widths))
