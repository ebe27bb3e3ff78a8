"""One keep-ratio for kinds, with the budget spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fxprune.search import Choices, search
from fxprune.search.ties import Tie
from tests.search.synthetic import Floats, Ints

LAYERS = 4


class Layers:
    """Layers of heads, two to a key/value head, and a feed-forward part, around a hidden width."""

    groups = ("hidden", *(f"{kind}{at}" for at in range(LAYERS) for kind in ("pairs", "wide")))
    sizes = np.array([512, *([2, 1408] * LAYERS)], dtype=np.int64)

    def evaluate(self, widths: Ints, metrics: Sequence[str] = ("params",), /) -> dict[str, Floats]:
        """Parameters of all layers."""
        hidden, pairs, wide = widths[:, 0], widths[:, 1::2], widths[:, 2::2]
        params = (hidden[:, None] * (2 * 256 * pairs + 3 * wide + 2 * 256)).sum(axis=1).astype(np.float64)
        return dict.fromkeys(metrics, params)


def choices_of(energy: float = 1.0) -> list[Choices]:
    """Candidates in steps of 8, 1 for pairs; losses by the share that is kept, to a power."""
    found = []
    for name, size in zip(Layers.groups, Layers.sizes.tolist(), strict=True):
        widths = np.arange(1, 3) if size == 2 else np.arange(8, size + 1, 8)
        found.append(Choices(name, widths.astype(np.int64), -energy * np.log(widths / size) + 0.0))
    return found


TIES = [Tie(tuple(f"{kind}{at}" for at in range(LAYERS)), size) for kind, size in (("pairs", 2), ("wide", 1408))]


def used(widths: dict[str, int]) -> float:
    costs = Layers()
    row = np.array([list(widths.values())])
    return float(costs.evaluate(row)["params"][0] / costs.evaluate(costs.sizes[None])["params"][0])


@pytest.mark.parametrize("share", [0.9, 0.8, 0.7, 0.62, 0.58, 0.55, 0.5, 0.3])
def test_the_budget_is_spent_also_where_a_kind_has_few_widths(share: float) -> None:
    costs = Layers()
    limits = {"params": share * float(costs.evaluate(costs.sizes[None])["params"][0])}
    widths = search(costs, limits, choices_of(), "uniform", TIES)
    assert share - 0.015 < used(widths) <= share
    for tie in TIES:
        assert len({widths[name] for name in tie.groups}) == 1


def test_one_ratio_alone_leaves_much_of_it() -> None:
    costs = Layers()
    limits = {"params": 0.58 * float(costs.evaluate(costs.sizes[None])["params"][0])}
    alone = search(costs, limits, choices_of(), "uniform")
    assert used(alone) < 0.56
    assert alone["pairs0"] == 1


def test_a_kind_with_few_widths_goes_the_way_that_loses_less() -> None:
    costs = Layers()
    limits = {"params": 0.55 * float(costs.evaluate(costs.sizes[None])["params"][0])}
    for dear in (True, False):
        choices = [
            Choices(
                each.group, each.widths, each.loss * (10.0 if dear else 0.01) if "pairs" in each.group else each.loss
            )
            for each in choices_of()
        ]
        assert search(costs, limits, choices, "uniform", TIES)["pairs0"] == (2 if dear else 1)


def test_what_meets_the_budget_keeps_everything() -> None:
    costs = Layers()
    limits = {"params": float(costs.evaluate(costs.sizes[None])["params"][0])}
    assert list(search(costs, limits, choices_of(), "uniform", TIES).values()) == costs.sizes.tolist()
