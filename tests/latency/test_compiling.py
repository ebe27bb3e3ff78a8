"""Latency models predict, and budgets of time hold by measurement; on a backend whose time is arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.backends.intervals import Interval
from fxprune.backends.measure import Latency
from fxprune.errors import BackendError, BudgetError, InfeasibleBudget, InputError
from fxprune.latency import Effort, Stopwatch, TimeBudget, build_model, split_times
from fxprune.latency.closing import CLOSE, ROOMIER, ROUNDS, Closing, close, make_room
from fxprune.planning import survey
from fxprune.widths import width_ranges
from tests.latency.fake import FakeBackend
from tests.latency.nets import IMAGES, TOKENS, Attention, Joined, Residual


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(gc, "collect", lambda: 0)  # before every measurement, and slow where torch is imported


def compiled(net: nn.Module, budget: Any, backend: FakeBackend | None = None, **options: Any) -> fxprune.SlimModule:
    torch.manual_seed(0)
    return fxprune.compile(net, budget, example_inputs=(IMAGES,), backend=backend or FakeBackend(), **options)


def latency_of(slim: fxprune.SlimModule) -> Any:
    return next(metric for metric in slim.report.metrics if metric.name == "latency")


@pytest.mark.parametrize("net", [Residual(), Joined(), Attention()], ids=lambda each: type(each).__name__)
def test_predictions_are_close(net: nn.Module) -> None:
    example = TOKENS if isinstance(net, Attention) else IMAGES
    analysis = survey(net.eval(), (example,)).analysis
    model = build_model(analysis, width_ranges(analysis, None, None), Stopwatch(FakeBackend()), Effort(held_out=10))
    assert model.error < 0.02
    assert not model.refused
    assert "median error" in str(model)


def test_times_that_bad_luck_made_are_measured_again() -> None:
    analysis = survey(Residual().eval(), (IMAGES,)).analysis
    backend = FakeBackend(bad_luck=3.0)
    model = build_model(analysis, width_ranges(analysis, None, None), Stopwatch(backend), Effort(held_out=10))
    assert model.error < 0.05


def test_what_is_known_is_not_measured_again() -> None:
    analysis = survey(Residual().eval(), (IMAGES,)).analysis
    first, second = FakeBackend(), FakeBackend()
    ranges = width_ranges(analysis, None, None)
    one = build_model(analysis, ranges, Stopwatch(first))
    two = build_model(analysis, ranges, Stopwatch(second))
    assert len(first.prepared_modules) > 30
    assert second.prepared_modules == ["_Least"]
    assert one.factors.tolist() == two.factors.tolist()


def test_fragments_that_a_backend_refuses_are_told() -> None:
    analysis = survey(Residual().eval(), (IMAGES,)).analysis
    backend = FakeBackend(refuses="Fragment")
    model = build_model(analysis, width_ranges(analysis, None, None), Stopwatch(backend))
    assert len(model.refused) == 5
    assert "no Fragment here" in model.refused[0]
    refusing = Stopwatch(FakeBackend(refuses="Candidate"))
    with pytest.raises(BackendError, match="no Candidate here"):
        build_model(analysis, width_ranges(analysis, None, None), refusing, Effort(keep=False))


def test_a_share_of_the_latency_is_met_and_used() -> None:
    slim = compiled(Residual(), {"latency": "60%"})
    metric = latency_of(slim)
    assert 0.9 * metric.limit < metric.after <= metric.limit
    assert metric.limit == pytest.approx(0.6 * metric.before)
    assert slim.plan.budget == {"latency": "60%"}
    assert "≤" in str(slim.report)
    assert "latency of fake on an abacus" in slim.report.notes[-1]


def test_an_absolute_latency_and_other_limits_hold_together() -> None:
    whole = latency_of(compiled(Residual(), {"latency": 1.0})).before
    slim = compiled(Residual(), {"latency": f"{whole * 0.7 * 1e6} us", "params": "30%"})
    metrics = {metric.name: metric for metric in slim.report.metrics}
    assert metrics["latency"].after <= 0.7 * whole * (1 + 1e-9)
    assert metrics["params"].after <= 0.3 * metrics["params"].before


@pytest.mark.parametrize("search", ["uniform", "threshold"])
def test_other_searches_meet_it_too(search: str) -> None:
    metric = latency_of(compiled(Residual(), {"latency": "60%"}, search=search))
    assert 0.7 * metric.limit < metric.after <= metric.limit


def test_throughput_is_at_least_what_was_asked_for() -> None:
    slim = compiled(Residual(), {"throughput": "200%"})
    metric = latency_of(slim)
    assert metric.after <= metric.before / 2
    items = len(IMAGES) / metric.before * 1.5
    metric = latency_of(compiled(Residual(), {"throughput": items}))
    assert len(IMAGES) / metric.after >= items


def test_a_budget_out_of_reach_names_the_fastest() -> None:
    with pytest.raises(InfeasibleBudget, match="the fastest reached takes") as caught:
        compiled(Residual(), {"latency": "1%"})
    shortfall = caught.value.shortfalls["latency"]
    assert shortfall.limit < shortfall.smallest < shortfall.original


def test_a_budget_that_holds_already_cuts_nothing() -> None:
    slim = compiled(Residual(), {"latency": 1.0})
    assert all(kept == size for kept, size in slim.plan.widths.values())


def test_the_result_is_the_same_each_time() -> None:
    assert compiled(Residual(), {"latency": "50%"}).plan == compiled(Residual(), {"latency": "50%"}).plan


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"latency": 3}, "has no unit"),
        ({"latency": "3 MB"}, "does not measure time"),
        ({"latency": "120%"}, "more than the original"),
        ({"throughput": "0/s"}, "not above zero"),
        ({"latency": None}, "is not an amount"),
    ],
)
def test_times_that_are_none(budget: Any, reason: str) -> None:
    with pytest.raises(BudgetError, match=reason):
        compiled(Residual(), budget)


def test_arguments_that_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is none"):
        fxprune.compile(Residual(), "50%", example_inputs=(IMAGES,), backend_options={"threads": 1})
    with pytest.raises(InputError, match="sweep measures no latency"):
        fxprune.sweep(Residual(), ["50%"], example_inputs=(IMAGES,), backend="eager")
    with monkeypatch.context() as several:
        several.setattr("fxprune.latency.compiling.world", lambda: (0, 2))
        with pytest.raises(InputError, match="several processes"):
            compiled(Residual(), {"latency": "50%"})
    with pytest.raises(InputError, match="do not leave open"):
        compiled(Residual(), {"latency": "50%", "config": {"blocks.0.conv1": 32}})
    with pytest.raises(BackendError, match="there is no backend 'abacus'"):
        fxprune.compile(Residual(), {"latency": "50%"}, example_inputs=(IMAGES,), backend="abacus")
    with pytest.raises(BudgetError, match="no batch dimension"):
        split_times({"throughput": "5/s"}, None)


def test_a_closed_loop_settles_just_below_the_budget() -> None:
    """u(t) = t / 2: whatever the first target, the loop ends within CLOSE of the budget, and never above it."""
    for start in (0.1, 1.0, 1.9, 5.0, 40.0):
        tried: list[float] = []
        found, rounds = close(_imagined(lambda target: target / 2, tried), start)
        assert 1 - CLOSE <= found.used <= 1
        assert rounds == len(tried) <= ROUNDS


def test_a_closed_loop_takes_the_widest_that_held_where_widths_are_coarse() -> None:
    found, _ = close(_imagined(lambda target: 0.8 if target < 3 else 1.3, []), 5.0)
    assert found.used == 0.8
    with pytest.raises(InfeasibleBudget, match="fastest reached"):
        close(_imagined(lambda target: 1.1 + target / 100, []), 1.0)


@pytest.mark.parametrize(("factor", "kept", "measured"), [(1.01, 1.01, 1), (1.2, 1.2, 2), (None, None, 0)])
def test_more_parameters_are_taken_only_if_they_hold(factor: float | None, kept: float | None, measured: int) -> None:
    """Widths with more parameters take `factor` as long as the others at a target; 1.2 is met by a lower target only."""
    tried: list[float] = []
    closing = _imagined(lambda target: target / 2, tried)
    found, _ = close(closing, 1.94)
    before = len(tried)
    asked: list[float] = []

    def roomier(target: float, widths: Any) -> Any:
        assert widths == found.widths
        asked.append(target)
        return None if factor is None else {"target": target * factor}

    made, count = make_room(replace(closing, roomier=roomier), found)
    assert count == len(tried) - before == measured
    assert made.used <= 1
    if kept is None:
        assert made is found
    else:
        assert made.widths["target"] == pytest.approx(asked[-1] * kept)


def test_without_room_what_was_found_stays() -> None:
    closing = _imagined(lambda target: target / 2, [])
    found, _ = close(closing, 1.94)
    slower = replace(closing, roomier=lambda target, widths: {"target": 4})
    assert make_room(slower, found) == (found, ROOMIER)

    def impossible(target: float, widths: Any) -> Any:
        raise InfeasibleBudget("latency", {})

    assert make_room(replace(closing, roomier=impossible), found) == (found, 0)


def _imagined(used: Callable[[float], float], tried: list[float]) -> Closing:
    """A loop over targets whose use of the budget is a function."""

    class Referee:
        def measure(self, candidate: Any) -> tuple[Latency, Latency]:
            tried.append(candidate)
            seconds = used(candidate)
            latency = Latency(
                seconds, seconds, seconds, 6, settled=True, speedup=Interval(1 / seconds, 1 / seconds, 1 / seconds)
            )
            return Latency(1.0, 1.0, 1.0, 6, settled=True), latency

    referee: Any = Referee()
    build: Any = lambda widths: widths["target"]  # noqa: E731
    budget = TimeBudget({"latency": 1.0}, None, 1.0)
    search: Any = lambda target: {"target": target}  # noqa: E731
    none: Any = lambda target, widths: None  # noqa: E731
    return Closing(budget, search, none, {"target": 0}, lambda widths: widths["target"], build, referee)
