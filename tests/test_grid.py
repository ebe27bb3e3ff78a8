"""The grid: all combinations near a budget, the best of them by measurement."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.budget import parse_budget
from fxprune.grid import Candidate, Grid, Level, levels_of, list_candidates, measured
from fxprune.passes.minitron import Minitron
from fxprune.pruning import Subject
from fxprune.scorer import Context
from tests.tiny_languages import IDS, llama

DATA = [{"input_ids": IDS}]


@functools.cache
def prepared() -> tuple[Subject, fxprune.Scores, Context]:
    model = llama(3)
    analysis = fxprune.analyze(model, DATA[0])
    context = Context(model, analysis, DATA, progress=False)
    return Subject(analysis, (), analysis, ()), Minitron().score(context), context


@functools.cache
def levels(depth: tuple[int, ...]) -> list[Level]:
    return levels_of(*prepared(), Grid(depth=depth))


def candidates(budget: Any, grid: Grid) -> list[tuple[Level, Candidate]]:
    limits = parse_budget(budget, prepared()[0].whole.costs.original)
    return list_candidates(levels(tuple(grid.depth)), limits, grid, None, None)


def test_candidates_hold_all_limits_and_lie_near_one() -> None:
    original = prepared()[0].whole.costs.original
    found = candidates({"params": "70%", "flops": "75%"}, Grid(top=40))
    assert 5 < len(found) <= 40
    for level, each in found:
        assert each.costs["params"] <= 0.7 * original["params"]
        assert each.costs["flops"] <= 0.75 * original["flops"]
        shares = each.costs["params"] / (0.7 * original["params"]), each.costs["flops"] / (0.75 * original["flops"])
        assert max(shares) >= 0.95
        for kind in ("mlp.gate_proj", "self_attn.q_proj:features#2"):
            assert len({width for name, width in each.widths.items() if name.endswith(kind)}) == 1
        assert all(each.widths[name] == level.subject.analysis.group(name).size for name in level.scores.whole)


def test_within_a_depth_the_least_predicted_loss_comes_first() -> None:
    losses = [each.loss for _, each in candidates({"params": "70%"}, Grid(top=30))]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_depths_take_turns() -> None:
    found = [len(each.dropped) for _, each in candidates({"params": "60%"}, Grid(top=5, depth=(0, 1)))]
    assert found[:4] == [0, 1, 0, 1]


def test_depth_alone_cuts_no_width() -> None:
    (only,) = candidates({"params": "60%"}, Grid(depth=(2,), width=False))
    assert set(only[1].kinds.values()) == {group.size for group in only[0].subject.analysis.groups}
    with pytest.raises(fxprune.InfeasibleBudget):
        candidates({"params": "60%"}, Grid(depth=(0,), width=False))


def test_the_measured_loss_is_that_of_the_candidate_built() -> None:
    model = prepared()[0], prepared()[2].model
    found = measured(candidates({"params": "70%"}, Grid(top=3)), prepared()[2], Grid(top=3))
    scores = [each.score for _, each in found]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    slim = fxprune.compile(
        model[1], {"params": "70%"}, data=DATA, search=Grid(top=3), reconstruct=False, progress=False
    )
    assert slim.plan.search == "grid"
    assert {name: kept for name, (kept, _) in slim.plan.widths.items()} == dict(found[0][1].widths)
    with torch.no_grad():
        logits = slim(**DATA[0])["logits"][:, :-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
    assert -float(loss) == pytest.approx(found[0][1].score, rel=1e-4)


def test_the_users_score_decides() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    images = torch.randn(4, 8)
    base = model(images)
    seen = []

    def score(module: nn.Module) -> float:
        seen.append(-float((module(images) - base).square().mean()))
        return seen[-1]

    options: dict[str, Any] = {"example_inputs": images, "scorer": "magnitude", "score": score, "verify": False}
    slim = fxprune.compile(model, "60%", search=Grid(top=6, near=0.3), **options)
    assert len(seen) == 6
    with torch.no_grad():
        assert -float((slim(images) - base).square().mean()) == pytest.approx(max(seen), rel=1e-4)


def test_without_anything_to_measure_by_it_says_so() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    with pytest.raises(fxprune.InputError, match="measures its best candidates: pass score="):
        fxprune.compile(model, "60%", example_inputs=torch.randn(2, 8), search="grid")


def test_a_grid_that_no_one_can_list_is_refused() -> None:
    layers = [layer for _ in range(24) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    with pytest.raises(fxprune.InputError, match=r"24 kinds of groups has .* take search="):
        fxprune.compile(model, "60%", example_inputs=torch.randn(2, 64), search="grid", score=lambda _: 0.0)


def test_it_is_for_compile_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    with pytest.raises(fxprune.InputError, match="works with `compile` alone"):
        fxprune.sweep(model, ["60%"], example_inputs=torch.randn(2, 8), search=Grid())
    with pytest.raises(fxprune.InputError, match="`iterate` cannot"):
        fxprune.iterate(model, "60%", steps=1, finetune=lambda _: None, example_inputs=torch.randn(2, 8), drop=1)


def test_options_that_say_nothing_are_refused() -> None:
    with pytest.raises(fxprune.InputError, match="needs top >= 1"):
        Grid(top=0)
