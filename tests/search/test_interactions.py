"""Interactions found by group tests equal those of each pair, and the surrogate is exact for products of two."""

from __future__ import annotations

import numpy as np
import pytest

from fxprune.search.interactions import pair_interactions
from fxprune.search.problem import Problem, pose
from fxprune.search.surrogate import build_surrogate
from tests.search.synthetic import make_model


def make_problem(seed: int, groups: int, *, cubic: bool) -> Problem:
    costs, choices = make_model(seed, groups, 6, cubic=cubic)
    return pose(costs, {"flops": 1.0, "params": 1.0}, choices)


@pytest.mark.parametrize("groups", [2, 3, 7, 16])
@pytest.mark.parametrize("cubic", [False, True])
def test_interactions_equal_pairwise_differences(groups: int, cubic: bool) -> None:
    problem = make_problem(groups, groups, cubic=cubic)
    base, probe = problem.counts // 2, np.zeros_like(problem.counts)
    found = pair_interactions(problem, base, probe)
    for i in range(groups):
        for j in range(groups):
            rows = np.repeat(base[None], 4, axis=0)
            rows[1, i] = rows[2, j] = rows[3, i] = rows[3, j] = 0
            none, one, other, both = problem.usage(rows)
            expected = both - one - other + none if i != j else np.zeros(2)
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-6, atol=1e-6 * none.max())


def test_surrogate_predicts_products_of_two_exactly() -> None:
    problem = make_problem(1, 12, cubic=False)
    random = np.random.default_rng(0)
    surrogate = build_surrogate(problem, random.integers(problem.counts)).moved_to(random.integers(problem.counts))
    levels = random.integers(problem.counts)
    changes = surrogate.changes(levels)
    before = problem.usage(levels[None])[0]
    for group in range(12):
        for level in range(6):
            moved = levels.copy()
            moved[group] = level
            expected = (problem.usage(moved[None])[0] - before) / surrogate.scale
            np.testing.assert_allclose(changes[group, level], expected, atol=1e-9)
