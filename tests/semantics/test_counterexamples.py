"""Counterexamples that random graphs and real models brought up, each kept as a test."""

from __future__ import annotations

import pytest

from tests.randomgraphs import random_module
from tests.semantics.test_random_graphs import check

SEEDS = {
    152: "GroupNorm with one channel per group",
}


@pytest.mark.parametrize("seed", SEEDS, ids=SEEDS.values())
def test_counterexample(seed: int) -> None:
    model, inputs = random_module(seed)
    check(model, inputs, seed, plans=4)
