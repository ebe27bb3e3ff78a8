"""How far the knapsack method stays from the optimum, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from fxprune.search import search
from fxprune.search.knapsack import MOST_ENUMERATED
from tests.search.milp import exact_loss
from tests.search.synthetic import Floats, Ints, SyntheticCosts, brute_force, make_model, make_steep, total_loss

SHAPES = [(6, 7), (7, 6), (5, 9)]


def random_limits(seed: int, costs: SyntheticCosts, metrics: tuple[str, ...]) -> dict[str, float]:
    """Between 20 and 80 % of the FLOPs, and about as much of the others."""
    random = np.random.default_rng(seed)
    full = costs.evaluate(costs.sizes[None])
    fraction = random.uniform(0.2, 0.8)
    shares = {"flops": 1.0, "params": random.uniform(0.7, 1.2), "memory": random.uniform(0.9, 1.3)}
    return {metric: float(full[metric][0] * min(shares[metric] * fraction, 0.95)) for metric in metrics}


def test_gap_to_brute_force() -> None:
    gaps = []
    for seed in range(36):
        groups, levels = SHAPES[seed % 3]
        assert levels**groups > MOST_ENUMERATED
        costs, choices = make_model(seed, groups, levels, cubic=seed % 2 == 1)
        choices = make_steep(seed, choices) if seed % 4 == 0 else choices
        limits = random_limits(seed, costs, ("flops", "params", "memory")[: 1 + seed % 3])
        gaps.append(total_loss(choices, search(costs, limits, choices)) / brute_force(costs, limits, choices) - 1)
    exact = np.mean(np.array(gaps) < 1e-9)
    print(f"gap to brute force: mean {np.mean(gaps):.3%}, largest {max(gaps):.3%}, exact {exact:.0%}")
    assert np.mean(gaps) < 0.005
    assert max(gaps) < 0.05


def test_gap_to_integer_programming() -> None:
    gaps = []
    for seed in range(12):
        costs, choices = make_model(seed, (12, 16, 24)[seed % 3], 10)
        limits = random_limits(seed, costs, ("flops", "params")[: 1 + seed % 2])
        gaps.append(total_loss(choices, search(costs, limits, choices)) / exact_loss(costs, limits, choices) - 1)
    print(f"gap to integer programming: mean {np.mean(gaps):.3%}, largest {max(gaps):.3%}")
    assert np.mean(gaps) < 0.01
    assert max(gaps) < 0.05


class CountedCosts:
    """Costs that remember how they were used."""

    def __init__(self, costs: SyntheticCosts) -> None:
        self.costs, self.groups, self.sizes = costs, costs.groups, costs.sizes
        self.rows = self.largest = 0

    def evaluate(self, widths: Ints, metrics: Sequence[str] = ("flops", "params", "memory")) -> dict[str, Floats]:
        self.rows += len(widths)
        self.largest = max(self.largest, widths.size)
        return self.costs.evaluate(widths, metrics)


@pytest.mark.parametrize(("groups", "levels", "rows", "seconds"), [(50, 20, 100_000, 10), (300, 32, 200_000, 40)])
def test_time_and_evaluations(groups: int, levels: int, rows: int, seconds: float) -> None:
    plain, choices = make_model(groups, groups, levels, cubic=True)
    costs = CountedCosts(plain)
    full = plain.evaluate(plain.sizes[None])
    limits = {metric: float(full[metric][0] / 2) for metric in full}
    start = time.perf_counter()
    widths = search(costs, limits, choices)
    elapsed = time.perf_counter() - start
    print(f"{groups} groups x {levels} widths: {elapsed:.2f} s, {costs.rows} evaluations")
    assert total_loss(choices, widths) < 0.5 * total_loss(choices, search(plain, limits, choices, "threshold"))
    assert elapsed < seconds
    assert costs.rows < rows
    assert costs.largest <= 1 << 20
