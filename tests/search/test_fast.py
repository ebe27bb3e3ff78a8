"""Widths that are fast as well, within the budget and for little loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.budget import parse_budget
from fxprune.costs.roofline import ROOFLINE, find_roofline
from fxprune.errors import InfeasibleBudget
from fxprune.planning import survey
from fxprune.pruning import Making, Subject, search_for
from fxprune.search import Choices, FurtherCosts, search, search_fast
from fxprune.search.fast import LEAST_SPENT, MOST_LOSS
from fxprune.widths import width_ranges
from tests.search.synthetic import Floats, Ints, SyntheticCosts, make_model
from tests.test_widths import GPU


def timed(costs: SyntheticCosts) -> FurtherCosts:
    """Synthetic costs, and the bytes of all activations together as the time."""

    def seconds(widths: Ints) -> Floats:
        padded = np.concatenate([widths, np.ones((len(widths), 1))], axis=1)
        total: Floats = costs.activations.of(padded).sum(axis=1)
        return total

    return FurtherCosts(costs, "time", seconds)


def usage(costs: FurtherCosts, widths: dict[str, int], metric: str) -> float:
    return float(costs.evaluate(np.array([list(widths.values())]), (metric,))[metric][0])


def loss(choices: Sequence[Choices], widths: dict[str, int]) -> float:
    return sum(float(each.loss[list(each.widths).index(widths[each.group])]) for each in choices)


@pytest.mark.parametrize("seed", range(12))
def test_it_is_within_the_budget_and_faster_for_little_loss(seed: int) -> None:
    synthetic, choices = make_model(seed, groups=14, levels=8)
    costs = timed(synthetic)
    limits = {"flops": 0.5 * usage(costs, dict(zip(costs.groups, costs.sizes.tolist(), strict=True)), "flops")}
    plain, fast = search(costs, limits, choices), search_fast(costs, limits, choices, "time")
    assert usage(costs, fast, "flops") <= limits["flops"]
    if fast != plain:
        assert usage(costs, fast, "time") < usage(costs, plain, "time")
        assert loss(choices, fast) <= max(MOST_LOSS.values()) * loss(choices, plain)
        assert usage(costs, fast, "flops") >= LEAST_SPENT * usage(costs, plain, "flops")


def test_it_makes_a_difference_in_some_and_in_some_none() -> None:
    differs = []
    for seed in range(12):
        synthetic, choices = make_model(seed, groups=14, levels=8)
        costs = timed(synthetic)
        limits = {"flops": 0.5 * usage(costs, dict(zip(costs.groups, costs.sizes.tolist(), strict=True)), "flops")}
        differs.append(search(costs, limits, choices) != search_fast(costs, limits, choices, "time"))
    assert 0 < sum(differs) < len(differs)


def test_a_budget_that_cannot_be_met_is_refused_as_ever() -> None:
    synthetic, choices = make_model(0, groups=6, levels=4)
    with pytest.raises(InfeasibleBudget, match="flops"):
        search_fast(timed(synthetic), {"flops": 1.0}, choices, "time")


def bottlenecks() -> nn.Module:
    """A wide residual stream at high resolution, and narrow layers that hold most FLOPs."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(256, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 256, 1)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.body(x))

    torch.manual_seed(0)
    ends = nn.Conv2d(3, 256, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)
    return nn.Sequential(ends[0], *(Block() for _ in range(3)), *ends[1:]).eval()


def test_a_residual_stream_is_cut_on_a_gpu_where_it_is_what_takes_time() -> None:
    model, x = bottlenecks(), torch.randn(2, 3, 16, 16)
    analysis = survey(model, (x,)).analysis
    scores = fxprune.score(model, "magnitude", example_inputs=x)
    limits = parse_budget("60%", analysis.costs.original)
    making = Making(width_ranges(analysis, None, None, GPU), None, 0, verify=False, repairing=None)
    subject = Subject(analysis, (), analysis, ())
    plain = search_for(subject, scores, limits, making)
    fast = search_for(subject, scores, limits, replace(making, fast=True))
    roofline = find_roofline(analysis.program, analysis.propagation, analysis.groups)
    costs = FurtherCosts(analysis.costs, ROOFLINE, roofline.times)
    rows = np.array([[each[name] for name in costs.groups] for each in (plain, fast)])
    used = costs.evaluate(rows)
    assert fast["0"] < plain["0"]
    assert (used["flops"] <= limits.limits["flops"]).all()
    assert used[ROOFLINE][1] < 0.95 * used[ROOFLINE][0]
    params = parse_budget({"params": "60%"}, analysis.costs.original)
    assert search_for(subject, scores, params, replace(making, fast=True)) == search_for(
        subject, scores, params, making
    )
    uniform = replace(making, fast=True, search="uniform")
    assert search_for(subject, scores, limits, uniform) == search_for(
        subject, scores, limits, replace(uniform, fast=False)
    )
