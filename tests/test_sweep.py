"""Sweeps: one scoring run for many budgets, the Pareto front, CSV and plot."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import BudgetError, InputError
from fxprune.front import Front, Point
from tests.plugin.src.fxprune_firstindex import FirstIndex

X = torch.linspace(-1, 1, 16).reshape(2, 8)
BUDGETS: list[Any] = ["80%", "50%", {"params": "40%", "flops": "60%"}, "0.1%"]


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))


@dataclass
class Counting:
    """Counts how often it is asked."""

    calls: int = 0
    name: str = "counting"
    needs: frozenset[str] = field(default=frozenset())

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        self.calls += 1
        return fxprune.Scores(self.name, FirstIndex().score(context).importance)


@dataclass
class Evaluating:
    """Score: minus the distance of the module's outputs from those of the original."""

    calls: int = 0
    seen: list[bool] = field(default_factory=list)

    def __call__(self, module: nn.Module) -> float:
        self.calls += 1
        self.seen.append(module.training or torch.is_grad_enabled())
        return -float((module(X) - perceptron()(X)).detach().norm())


def test_points_are_what_compile_gives() -> None:
    model, scorer, evaluating = perceptron().train(), Counting(), Evaluating()
    front = fxprune.sweep(model, BUDGETS, score=evaluating, example_inputs=X, scorer=scorer, progress=False)
    assert scorer.calls == 1
    assert evaluating.calls == 4
    assert not any(evaluating.seen)
    assert all(module.training for module in model.modules())
    assert [point.budget for point in front.points] == BUDGETS
    for point in front.points[:3]:
        alone = fxprune.compile(model, point.budget, example_inputs=X, scorer=FirstIndex())
        assert point.plan is not None
        assert point.slim is not None
        assert point.plan.slices == alone.plan.slices
        assert point.after == {metric.name: metric.after for metric in alone.report.metrics}
        assert point.before == {metric.name: metric.before for metric in alone.report.metrics}
        assert torch.equal(point.slim(X), alone(X))
        assert point.score == pytest.approx(Evaluating()(alone))
    assert front.original == 0.0


def test_a_budget_that_cannot_be_met_is_a_row_that_says_so(tmp_path: Path) -> None:
    front = fxprune.sweep(perceptron(), ["80%", "0.1%"], example_inputs=X)
    last = front.points[-1]
    assert (last.slim, last.plan, last.after, last.score) == (None, None, None, None)
    assert "384 FLOPs (12.5%) is the least" in last.reason
    text = str(front)
    assert "cannot be met" in text
    assert last.reason in text
    first, second = csv.DictReader(front.to_csv(tmp_path / "sweep.csv").read_text().splitlines())
    assert float(first["flops_share"]) <= 0.8
    assert (first["score"], first["best"]) == ("", "0")
    assert (second["flops"], second["reason"]) == ("", " ".join(last.reason.split()))
    assert front.best == ()
    with pytest.raises(InputError, match="sweep with score="):
        front.plot(tmp_path / "sweep.png")


def point(flops: float, score: float | None) -> Point:
    before = {"flops": 100.0, "params": 10.0, "memory": 40.0}
    after = {"flops": flops, "params": 5.0, "memory": 20.0}
    return Point(f"{flops:g}%", before, None if score is None else after, score, reason="" if score else "too small")


def test_the_pareto_front() -> None:
    points = [point(80, 0.9), point(60, 0.95), point(60, 0.95), point(50, 0.8), point(40, 0.8), point(20, None)]
    front = Front(tuple(points), 0.96)
    assert [each is points[at] for each, at in zip(front.best, (1, 4), strict=True)] == [True, True]
    lines = [line for line in str(front).splitlines() if line.endswith("*") or "* │" in line]
    assert len(lines) == 2
    assert "the original scores 0.96" in str(front)
    assert Front(()).best == ()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_shows_every_point(tmp_path: Path, suffix: str) -> None:
    front = Front((point(80, 0.93), point(60, 0.95), point(40, 0.8), point(20, None)), 0.96)
    path = front.plot(tmp_path / f"sweep{suffix}")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    if suffix == ".svg":
        assert all(f"<!-- {name} -->".encode() in content for name in ("80%", "60%", "40%", "original"))
        assert b"<!-- 20% -->" not in content
    with pytest.raises(InputError, match="does not end in one of"):
        front.plot(tmp_path / "sweep.txt")


def test_evaluations_are_not_repeated(tmp_path: Path) -> None:
    calls = []

    def score(module: nn.Module) -> float:
        calls.append(1)
        return float(module(X).detach().norm())

    options: dict[str, Any] = {"example_inputs": X, "score": score, "scorer": "magnitude"}
    one = fxprune.sweep(perceptron(), ["80%", "50%"], checkpoint=tmp_path / "sweep.ckpt", **options)
    two = fxprune.sweep(perceptron(), ["80%", "50%", "30%"], checkpoint=tmp_path / "sweep.ckpt", **options)
    assert len(calls) == 4
    assert [each.score for each in two.points[:2]] == [each.score for each in one.points]


def test_arguments_that_are_no_use() -> None:
    with pytest.raises(InputError, match="pass a list"):
        fxprune.sweep(perceptron(), "50%", example_inputs=X)
    with pytest.raises(InputError, match="pass a list"):
        fxprune.sweep(perceptron(), [], example_inputs=X)
    with pytest.raises(BudgetError, match="latenzy"):
        fxprune.sweep(perceptron(), ["50%", {"latenzy": 1.0}], example_inputs=X)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scoer'"):
        fxprune.sweep(perceptron(), ["50%"], example_inputs=X, scoer="magnitude")
    wrong: Any = lambda module: "good"  # noqa: E731
    with pytest.raises(InputError, match="returned 'good'"):
        fxprune.sweep(perceptron(), ["50%"], example_inputs=X, score=wrong, scorer="magnitude")
