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
    plain, roomy = search(costs, limits, choices), search_roomy(costs, limits, choices)
    assert usage(costs, roomy, "flops") <= limits["flops"]
    assert usage(costs, roomy, "params") >= usage(costs, plain, "params")
    assert loss_of(choices, roomy) <= MOST_LOSS * loss_of(choices, plain)
    assert all(roomy[each.group] in each.widths for each in choices)


def test_it_makes_a_difference() -> None:
    more = []
    for seed in range(12):
        costs, choices = make_model(seed, groups=14, levels=8)
        found = [usage(costs, each(costs, limits_of(costs), choices), "params") for each in (search, search_roomy)]
        more.append(found[1] / found[0])
    assert sum(each > 1.005 for each in more) >= 3


def test_a_budget_that_everything_meets_cuts_nothing() -> None:
    costs, choices = make_model(1, groups=5, levels=4)
    found = search_roomy(costs, {"flops": 1e18}, choices)
    assert found == {each.group: int(each.widths[-1]) for each in choices}


def test_one_candidate_each_is_what_it_is() -> None:
    costs, choices = make_model(1, groups=5, levels=4)
    only = [Choices(each.group, each.widths[-1:], each.loss[-1:]) for each in choices]
    assert search_roomy(costs, {"flops": 1e18}, only) == dict(zip(costs.groups, costs.sizes.tolist(), strict=True))


def test_a_budget_that_cannot_be_met_is_refused_as_ever() -> None:
    costs, choices = make_model(0, groups=6, levels=4)
    with pytest.raises(InfeasibleBudget, match="flops"):
        search_roomy(costs, {"flops": 1.0}, choices)
