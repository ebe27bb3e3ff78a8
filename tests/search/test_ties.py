"""Groups that are tied: proportions kept, budgets met, and the best choice among those that keep them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fxprune.search import search
from fxprune.search.choices import Choices
from fxprune.search.ties import Tie, tie
from tests.search.synthetic import make_model


def tied_model() -> tuple[object, list[Choices], Tie]:
    """Two groups of other sizes in four steps, beside three that are free."""
    costs, choices = make_model(3, groups=5, levels=4)
    each = Tie((choices[1].group, choices[3].group), 4)
    made = [
        Choices(c.group, each.widths(int(c.widths[-1])), np.array([3.0, 2.0, 1.0, 0.0]) * (at + 1))
        for at, c in enumerate(choices)
    ]
    return costs, made, each


@pytest.mark.parametrize("method", ["knapsack", "threshold", "uniform"])
def test_proportions_are_kept(method: str) -> None:
    costs, choices, each = tied_model()
    limit = {"params": 0.5 * float(costs.evaluate(costs.sizes[None])["params"][0])}  # type: ignore[attr-defined]
    widths = search(costs, limit, choices, method, [each])  # type: ignore[arg-type]
    shares = {name: widths[name] / int(choices[at].widths[-1]) for at, name in enumerate(widths)}
    assert shares[each.groups[0]] == shares[each.groups[1]]
    row = np.array([list(widths.values())])
    assert costs.evaluate(row)["params"][0] <= limit["params"]  # type: ignore[attr-defined]


def test_the_best_of_all_that_keep_them() -> None:
    costs, choices, each = tied_model()
    limit = 0.6 * float(costs.evaluate(costs.sizes[None])["params"][0])  # type: ignore[attr-defined]
    found = search(costs, {"params": limit}, choices, "knapsack", [each])  # type: ignore[arg-type]

    def loss(widths: dict[str, int]) -> float:
        return sum(float(c.loss[list(c.widths).index(widths[c.group])]) for c in choices)

    rows = [
        {c.group: int(c.widths[level]) for c, level in zip(choices, levels, strict=True)}
        for levels in product(range(4), repeat=5)
        if levels[1] == levels[3]
    ]
    usage = costs.evaluate(np.array([list(row.values()) for row in rows]))["params"]  # type: ignore[attr-defined]
    best = min(loss(row) for row, used in zip(rows, usage, strict=True) if used <= limit)
    assert loss(found) == pytest.approx(best)


def test_without_ties_nothing_changes() -> None:
    costs, choices = make_model(1, groups=4, levels=4)
    joint, same = tie(costs, choices, ())
    assert joint.groups == costs.groups
    assert [c.loss.tolist() for c in same] == [c.loss.tolist() for c in choices]
    widths = costs.sizes[None] // 2
    table = [np.stack([c.widths]).T for c in choices]
    assert all((a == b).all() for a, b in zip(table, joint.tables, strict=True))
    assert (joint.expand(np.array([[c.widths[0] for c in choices]])) <= widths * 2).all()
