"""Properties that every method of the search has on any model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.errors import InfeasibleBudget, InputError
from fxprune.search import METHODS, Choices, search
from tests.search.synthetic import SyntheticCosts, Terms, brute_force, make_model, total_loss

METRICS = ("flops", "params", "memory")
FRACTIONS = st.floats(0.05, 1.1)
ROUNDING = 1e-9
SEEDS = st.integers(0, 10_000)


def limits_at(costs: SyntheticCosts, fractions: dict[str, float]) -> dict[str, float]:
    full = costs.evaluate(costs.sizes[None])
    return {metric: float(full[metric][0] * fraction) for metric, fraction in fractions.items()}


def usage_of(costs: SyntheticCosts, widths: dict[str, int]) -> dict[str, float]:
    usage = costs.evaluate(np.array([list(widths.values())]))
    return {metric: float(amounts[0]) for metric, amounts in usage.items()}


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    groups=st.integers(2, 14),
    levels=st.integers(1, 8),
    fractions=st.dictionaries(st.sampled_from(METRICS), FRACTIONS),
    method=st.sampled_from(sorted(METHODS)),
)
def test_limits_hold_or_cannot(seed: int, groups: int, levels: int, fractions: dict[str, float], method: str) -> None:
    costs, choices = make_model(seed, groups, levels, cubic=seed % 2 == 0)
    limits = limits_at(costs, fractions)
    narrowest = usage_of(costs, {choice.group: int(choice.widths[0]) for choice in choices})
    missed = {metric for metric in limits if narrowest[metric] > limits[metric]}
    if missed:
        with pytest.raises(InfeasibleBudget) as caught:
            search(costs, limits, choices, method)
        reachable = {metric: shortfall.smallest for metric, shortfall in caught.value.shortfalls.items()}
        assert reachable == {metric: narrowest[metric] for metric in missed}
        return
    widths = search(costs, limits, choices, method)
    assert list(widths) == list(costs.groups)
    assert all(widths[choice.group] in choice.widths for choice in choices)
    assert all(usage_of(costs, widths)[metric] <= limit for metric, limit in limits.items())
    assert search(costs, limits, choices, method) == widths


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, groups=st.integers(2, 5), levels=st.integers(2, 6), tight=FRACTIONS, loose=FRACTIONS)
def test_small_problems_are_solved_exactly_and_monotonically(
    seed: int, groups: int, levels: int, tight: float, loose: float
) -> None:
    costs, choices = make_model(seed, groups, levels, cubic=True)
    losses = []
    for fraction in sorted((tight, loose)):
        limits = limits_at(costs, dict.fromkeys(METRICS, fraction))
        best = brute_force(costs, limits, choices)
        if np.isfinite(best):
            losses.append(total_loss(choices, search(costs, limits, choices)))
            assert losses[-1] == pytest.approx(best)
    assert all(looser <= tighter + ROUNDING for tighter, looser in pairwise(losses))


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, groups=st.integers(2, 20), levels=st.integers(2, 12), tight=FRACTIONS, loose=FRACTIONS)
@pytest.mark.parametrize("method", ["threshold", "uniform"])
def test_a_looser_budget_never_narrows_a_group(
    method: str, seed: int, groups: int, levels: int, tight: float, loose: float
) -> None:
    costs, choices = make_model(seed, groups, levels)
    tight, loose = sorted((tight, loose))
    try:
        narrow = search(costs, limits_at(costs, {"flops": tight, "memory": tight}), choices, method)
    except InfeasibleBudget:
        return
    wide = search(costs, limits_at(costs, {"flops": loose, "memory": loose}), choices, method)
    assert all(wide[group] >= narrow[group] for group in wide)


@pytest.mark.parametrize("seed", range(4))
def test_knapsack_loses_less_under_looser_budgets(seed: int) -> None:
    costs, choices = make_model(seed, 20, 10, cubic=seed % 2 == 0)
    budgets = [limits_at(costs, {"flops": fraction, "params": fraction}) for fraction in np.linspace(0.2, 0.95, 10)]
    losses = [total_loss(choices, search(costs, limits, choices)) for limits in budgets]
    assert losses == sorted(losses, reverse=True)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, groups=st.integers(6, 20), levels=st.integers(6, 12), fraction=st.floats(0.35, 0.95))
def test_knapsack_is_never_worse_than_the_simple_methods(seed: int, groups: int, levels: int, fraction: float) -> None:
    costs, choices = make_model(seed, groups, levels, cubic=True)
    limits = limits_at(costs, dict.fromkeys(METRICS, fraction))
    losses = {method: total_loss(choices, search(costs, limits, choices, method)) for method in METHODS}
    assert losses["knapsack"] <= min(losses.values()) + ROUNDING


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, groups=st.integers(2, 10), levels=st.integers(5, 10), fraction=st.floats(0.35, 0.95))
def test_threshold_takes_the_smallest_threshold(seed: int, groups: int, levels: int, fraction: float) -> None:
    costs, choices = make_model(seed, groups, levels)
    limits = limits_at(costs, {"flops": fraction})
    found = search(costs, limits, choices, "threshold")
    for threshold in sorted({float(loss) for choice in choices for loss in choice.loss}):
        widths = {choice.group: int(choice.widths[choice.loss <= threshold][0]) for choice in choices}
        if usage_of(costs, widths)["flops"] <= limits["flops"]:
            assert found == widths
            break


def test_uniform_keeps_the_largest_ratio_that_fits() -> None:
    costs, choices = make_model(0, 12, 16)
    limits = limits_at(costs, {"flops": 0.5})
    ratios = {
        widths / size
        for widths, size in zip(search(costs, limits, choices, "uniform").values(), costs.sizes, strict=True)
    }
    assert len(ratios) == 1
    wider = {
        group: int(size * (ratios.copy().pop() + 1 / 16)) for group, size in zip(costs.groups, costs.sizes, strict=True)
    }
    assert usage_of(costs, wider)["flops"] > limits["flops"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_budget_that_is_met_changes_nothing(method: str) -> None:
    costs, choices = make_model(1, 5, 6)
    full = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    assert search(costs, limits_at(costs, {"flops": 1.0, "memory": 3.0}), choices, method) == full
    assert search(costs, {}, choices, method) == full


def test_a_model_without_groups() -> None:
    none = np.zeros((0, 3), dtype=np.int64)
    constant = Terms(np.array([7.0]), np.array([[-1, -1, -1]]))
    costs = SyntheticCosts((), np.zeros(0, dtype=np.int64), constant, constant, Terms(np.zeros(0), none))
    assert search(costs, {"flops": 7.0}, []) == {}
    with pytest.raises(InfeasibleBudget):
        search(costs, {"flops": 6.0}, [])


def test_groups_of_one_candidate_stay() -> None:
    costs, choices = make_model(2, 10, 8)
    choices[3] = Choices(choices[3].group, choices[3].widths[-1:], choices[3].loss[-1:])
    widths = search(costs, limits_at(costs, {"flops": 0.6}), choices)
    assert widths["layer3"] == costs.sizes[3]


def test_losses_of_zero_are_taken_for_free() -> None:
    costs, choices = make_model(3, 9, 8)
    free = [Choices(choice.group, choice.widths, np.zeros(len(choice.widths))) for choice in choices]
    for method in METHODS:
        limits = limits_at(costs, {"flops": 0.4, "params": 0.4})
        assert usage_of(costs, search(costs, limits, free, method))["flops"] <= limits["flops"]


def test_an_infeasible_budget_says_what_is_reachable() -> None:
    costs, choices = make_model(4, 6, 8)
    with pytest.raises(
        InfeasibleBudget, match=r"flops: at most .*FLOPs asked for; .* is the least reachable, of .*"
    ) as caught:
        search(costs, limits_at(costs, {"flops": 1e-6, "memory": 0.99}), choices)
    assert set(caught.value.shortfalls) == {"flops"}
    shortfall = caught.value.shortfalls["flops"]
    assert shortfall.limit < shortfall.smallest < shortfall.original


def test_an_unknown_method_is_named() -> None:
    costs, choices = make_model(5, 3, 3)
    with pytest.raises(
        InputError, match=r"'knapsac'. Did you mean 'knapsack'\? Write one of: knapsack, threshold, uniform"
    ):
        search(costs, {"flops": 1.0}, choices, "knapsac")
