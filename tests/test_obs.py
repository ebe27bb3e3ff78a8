"""The scorer `obs` sees what magnitude cannot: which indices the others can stand in for, and what the output loses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.analysis import analyze
from fxprune.passes import obs
from fxprune.passes.distortion import Distortion
from fxprune.passes.elimination import Problem, eliminate
from fxprune.passes.magnitude import Magnitude
from fxprune.passes.obs import Obs
from fxprune.scores import Scores
from tests.test_reconstruct import Attention, fill, random, repeat


def scores_of(model: nn.Module, data: Any, scorer: Any | None = None) -> Scores:
    context = fxprune.Context(model, analyze(model, data[0]), data=data)
    return (Obs() if scorer is None else scorer).score(context)


def kept(scores: Scores, group: str, count: int) -> set[int]:
    return set(np.argsort(-scores.importance[group])[:count].tolist())


def twins() -> Any:
    """Units 0-7 are small and unique, 8-15 and 16-23 are large and repeat each other."""
    model: Any = fill(nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 6)))
    with torch.no_grad():
        model[0].weight[8:] *= 3
    repeat(model[0], slice(8, 16), slice(16, 24))
    return model


DATA = [random(64, 8, seed=each) for each in range(6)]


def test_redundant_units_go_first_where_magnitude_keeps_them() -> None:
    model = twins()
    found = kept(scores_of(model, DATA, Obs(ridge=1e-6)), "0", 16)
    assert set(range(8)) <= found
    assert all(len(found & {8 + each, 16 + each}) == 1 for each in range(8))
    assert not set(range(8)) <= kept(scores_of(model, DATA, Magnitude()), "0", 16)


def test_a_compiled_model_without_the_redundant_units_is_the_same() -> None:
    model = twins()
    slim = fxprune.compile(
        model, {"params": 16 * 15 + 6}, example_inputs=DATA[0], data=DATA, scorer=Obs(ridge=1e-6), align=1
    )
    x = random(64, 8, seed=9)
    with torch.no_grad():
        assert float((slim(x) - model(x)).norm() / model(x).norm()) < 0.01


def test_the_scale_of_an_input_does_not_matter() -> None:
    """Inputs a hundred times larger and weights a hundred times smaller are the same layer: the same order of removal."""
    a, w = random(400, 12).double(), random(12, 5, seed=1).double()
    scale = torch.logspace(-2, 2, 12, dtype=torch.float64)
    found = [
        eliminate([Problem.of(x.T @ x / 400, y, torch.arange(12), 1e-3)], 12)
        for x, y in ((a, w), (a * scale, w / scale[:, None]))
    ]
    assert torch.equal(found[0].order, found[1].order)
    np.testing.assert_allclose(found[0].errors, found[1].errors, rtol=1e-3)


def test_greedy_removal_adds_up_to_the_error_of_least_squares() -> None:
    a, w = random(200, 12).double(), random(12, 5, seed=1).double()
    order = eliminate([Problem.of(a.T @ a, w, torch.arange(12), 1e-12)], 12)
    for width, error in zip(order.widths[1:], order.errors[1:], strict=True):
        left = a[:, order.order[0, 12 - width :]]
        best = a @ w - left @ torch.linalg.lstsq(left, a @ w).solution
        assert abs(float(best.square().sum()) - error) < 1e-6 * float((a @ w).square().sum())


def test_blocks_of_columns_go_together_and_rounds_change_little() -> None:
    a, w = random(400, 96).double(), random(96, 8, seed=1).double()
    labels = torch.arange(96) // 2
    one, several = (eliminate([Problem.of(a.T @ a, w, labels, 1e-9)], 48, rounds=each) for each in (48, 6))
    assert several.widths[1] == 40
    assert several.errors[1] <= 1.02 * one.errors[one.widths.index(40)]


def test_nested_groups_lose_equally_many_in_every_row() -> None:
    model = fill(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=2)))
    for start in (0, 8):
        repeat(model[0], slice(start, start + 4), slice(start + 4, start + 8))
    data = [random(4, 3, 12, 12, seed=each) for each in range(4)]
    scores = scores_of(model, data)
    group = next(each for each in analyze(model, data[0]).groups if each.outer is not None)
    importance = scores.importance[group.name]
    assert importance.shape == (2, 8)
    for row in importance:
        best = set(np.argsort(-row)[:4].tolist())
        assert all(len(best & {each, each + 4}) == 1 for each in range(4))
    assert scores.sensitivity[group.name].widths == tuple(range(1, 9))


def test_attention_has_scores_for_all_its_groups() -> None:
    model, data = fill(Attention()), [random(8, 10, 12, seed=each) for each in range(4)]
    scores = scores_of(model, data)
    analysis = analyze(model, data[0])
    assert {"heads", "query/key dimensions", "value dimensions"} <= {group.kind for group in analysis.groups}
    for group in analysis.groups:
        assert np.ptp(scores.importance[group.name]) > 0
        assert scores.sensitivity[group.name].loss[0] > 0


def test_curves_fall_and_end_at_nothing() -> None:
    for scorer in (Obs(), Obs(shares=()), Obs(shares=(0.5,))):
        curve = scores_of(twins(), DATA, scorer).sensitivity["0"]
        assert curve.widths[-1] == 24
        assert curve.loss[-1] == 0
        assert list(curve.loss) == sorted(curve.loss, reverse=True)
        assert curve.loss[0] > 0.05


def test_calibrated_curves_tell_a_group_that_the_output_ignores() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))
            self.faint = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.loud(x) + 0.01 * self.faint(x)
            return result

    curves = scores_of(fill(Branches()), DATA).sensitivity
    assert curves["loud.0"].loss[4] > 100 * curves["faint.0"].loss[4]
    local = scores_of(fill(Branches()), DATA, Obs(shares=())).sensitivity
    assert local["loud.0"].loss[4] < 10 * local["faint.0"].loss[4]


def test_the_same_seed_gives_the_same_scores() -> None:
    first, second = (scores_of(twins(), DATA, Obs(rows=100)) for _ in range(2))
    for name, values in first.importance.items():
        assert np.array_equal(values, second.importance[name])
        assert first.sensitivity[name] == second.sensitivity[name]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders of removal that are in the checkpoint are not found again; the plan is that of a run in one go."""
    model = fill(nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6)))
    options: dict[str, Any] = {"example_inputs": DATA[0], "data": DATA, "scorer": "obs", "checkpoint": tmp_path / "obs"}
    measure, calls = Distortion.measure, 0

    def interrupted(self: Distortion, *args: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return measure(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Distortion, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fxprune.compile(model, "50%", **options)
    orders = [line for line in (tmp_path / "obs").read_text().splitlines() if '"order of ' in line]
    assert len(orders) == 2
    with monkeypatch.context() as patch:
        patch.setattr(obs, "eliminate", None)
        continued = fxprune.compile(model, "50%", **options)
    assert continued.plan == fxprune.compile(model, "50%", **{**options, "checkpoint": None}).plan
