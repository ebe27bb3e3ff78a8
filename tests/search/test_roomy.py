"""Within a budget of time, parameters are kept where that costs little."""

from __future__ import annotations

import numpy as np
import pytest

from fxprune.errors import InfeasibleBudget
from fxprune.search import Choices, search, search_roomy
from fxprune.search.choices import loss_of
from fxprune.search.roomy import MOST_LOSS
from tests.search.synthetic import SyntheticCosts, make_model


def usage(costs: SyntheticCosts, widths: dict[str, int], metric: str) -> float:
    return float(costs.evaluate(np.array([list(widths.values())]), (metric,))[metric][0])


def limits_of(costs: SyntheticCosts) -> dict[str, float]:
    return {"flops": 0.5 * usage(costs, dict(zip(costs.groups, costs.sizes.tolist(), strict=True)), "flops")}


@pytest.mark.parametrize("seed", range(12))
def test_it_is_within_the_budget_and_keeps_more_for_little_loss(seed: int) -> None:
    costs, choices = make_model(seed, groups=14, levels=8)
    limits = limits_of(costs)
    plain = search(costs, limits, choices)
    roomy = search_roomy(costs, limits, choices, plain)
    if roomy is None:
        return
    assert usage(costs, roomy, "flops") <= limits["flops"]
    assert usage(costs, roomy, "params") > usage(costs, plain, "params")
    assert loss_of(choices, roomy) <= MOST_LOSS * loss_of(choices, plain)
    assert all(roomy[each.group] in each.widths for each in choices)


def test_it_finds_some() -> None:
    gains = []
    for seed in range(12):
        costs, choices = make_model(seed, groups=14, levels=8)
        plain = search(costs, limits_of(costs), choices)
        roomy = search_roomy(costs, limits_of(costs), choices, plain)
        if roomy is not None:
            gains.append(usage(costs, roomy, "params") / usage(costs, plain, "params"))
    assert len(gains) >= 4
    assert max(gains) > 1.1


def test_in_a_smaller_budget_it_keeps_more_than_in_the_larger_one_or_is_none() -> None:
    for seed in range(6):
        costs, choices = make_model(seed, groups=14, levels=8)
        plain = search(costs, limits_of(costs), choices)
        smaller = {name: 0.97 * limit for name, limit in limits_of(costs).items()}
        roomy = search_roomy(costs, smaller, choices, plain)
        assert roomy is None or usage(costs, roomy, "params") > usage(costs, plain, "params")


def test_where_nothing_is_cut_there_is_no_more_to_keep() -> None:
    costs, choices = make_model(1, groups=5, levels=4)
    whole = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    assert search_roomy(costs, {"flops": 1e18}, choices, whole) is None


def test_one_candidate_each_leaves_no_choice() -> None:
    costs, choices = make_model(1, groups=5, levels=4)
    only = [Choices(each.group, each.widths[-1:], each.loss[-1:]) for each in choices]
    whole = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    assert search_roomy(costs, {"flops": 1e18}, only, whole) is None


def test_a_budget_that_cannot_be_met_is_refused_as_ever() -> None:
    costs, choices = make_model(0, groups=6, levels=4)
    plain = search(costs, limits_of(costs), choices)
    with pytest.raises(InfeasibleBudget, match="flops"):
        search_roomy(costs, {"flops": 1.0}, choices, plain)
