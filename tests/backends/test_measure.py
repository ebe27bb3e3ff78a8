"""The interval of the median, and the protocol around it, on clocks that the tests set."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fxprune.backends import Timing, measure, measure_side_by_side, median_interval
from fxprune.backends.eager import EagerBackend
from fxprune.backends.intervals import _rank
from fxprune.backends.measure import Call
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating


@pytest.mark.parametrize("count", [6, 7, 20, 25, 100, 1001])
def test_rank_is_the_largest_that_covers_95_percent(count: int) -> None:
    def below(rank: int) -> float:
        return 2 * sum(math.comb(count, index) for index in range(rank)) / float(2**count)

    assert 1 <= _rank(count) <= count / 2
    assert below(_rank(count)) <= 0.05 < below(_rank(count) + 1)


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    draws = generator.lognormal(size=(2000, 25))
    intervals = [median_interval(row) for row in draws]
    covered = sum(interval.low <= 1.0 <= interval.high for interval in intervals)
    assert 0.94 <= covered / len(draws) <= 0.98


def fake_clock(durations: dict[Call, Callable[[], float]]) -> Callable[[Call], float]:
    def clock(call: Call) -> float:
        call()
        return durations[call]()

    return clock


def test_measuring_stops_when_the_median_is_known() -> None:
    calls: list[int] = []
    call = lambda: calls.append(len(calls))  # noqa: E731 - a clock keyed by the object needs the object
    latency = measure(call, timing=Timing(warmup_calls=3), clock=fake_clock({call: lambda: 0.5}), batch_size=4)
    assert latency.settled
    assert latency.samples == Timing().min_samples
    assert len(calls) == latency.samples + 3
    assert (latency.median_s, latency.throughput, latency.speedup) == (0.5, 8.0, None)


def test_measuring_stops_when_the_budget_ends() -> None:
    noise = np.random.default_rng(0)
    call = lambda: None  # noqa: E731 - as above
    clock = fake_clock({call: lambda: float(noise.lognormal())})
    assert measure(call, timing=Timing(budget_s=1e-9), clock=clock).samples == 6
    latency = measure(call, timing=Timing(relative_width=1e-6, max_samples=50), clock=clock)
    assert (latency.samples, latency.settled) == (50, False)
    assert "not settled" in str(latency)


def test_the_spread_of_single_calls_is_kept() -> None:
    durations = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    call = lambda: None  # noqa: E731 - as above
    timing = Timing(min_samples=11, max_samples=11)
    latency = measure(call, timing=timing, clock=fake_clock({call: lambda: next(durations)}))
    assert latency.deciles_s == (2.0, 10.0)


def test_drift_cancels_side_by_side() -> None:
    speed = [1.0]

    def drifting(work: float) -> Callable[[], float]:
        def duration() -> float:
            speed[0] *= 1.01
            return work * speed[0]

        return duration

    slow, fast = (lambda: None), (lambda: 1)
    clock = fake_clock({slow: drifting(2.0), fast: drifting(1.0)})
    measured = measure_side_by_side({"slow": slow, "fast": fast}, timing=Timing(max_samples=100), clock=clock)
    assert list(measured) == ["slow", "fast"]
    assert not measured["fast"].settled
    speedup = measured["fast"].speedup
    assert speedup is not None
    assert speedup.median == pytest.approx(2.0, rel=1e-3)
    assert speedup.relative_width < 0.03
    assert measured["slow"].speedup is not None
    assert measured["slow"].speedup.median == 1.0


def test_the_garbage_collector_rests_and_comes_back() -> None:
    states: list[bool] = []
    measure(lambda: states.append(gc.isenabled()), timing=Timing(budget_s=0.01))
    assert not any(states)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"min_samples": 3}, {"max_samples": 5}, {"budget_s": 0}, {"relative_width": 0}])
def test_timing_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Timing(**wrong)  # type: ignore[arg-type]


def test_eager_evaluates_and_restores_each_flag() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4).eval())
    with evaluating(module):
        assert not any(child.training for child in module.modules())
    assert [child.training for child in module.modules()] == [True, True, False]
    latency = EagerBackend().measure(module, example_inputs=((torch.ones(3, 4),), {}), timing=Timing(budget_s=0.05))
    assert latency.versions["torch"] == torch.__version__
    assert [child.training for child in module.modules()] == [True, True, False]


def test_eager_has_no_files() -> None:
    with pytest.raises(BackendError, match=r"fxprune\.save"):
        EagerBackend().lower(nn.Identity(), "net", example_inputs=((), {}))
    with pytest.raises(BackendError, match=r"fxprune\.load"):
        EagerBackend().load("net")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_events_agree_with_the_wall_clock() -> None:
    module = nn.Linear(4096, 4096).cuda()
    images = torch.ones(4096, 4096, device="cuda")
    latency = EagerBackend().measure(module, example_inputs=((images,), {}), timing=Timing(budget_s=1.0))

    def synchronised() -> None:
        with torch.inference_mode():
            module(images)
        torch.cuda.synchronize()

    assert latency.device == torch.cuda.get_device_name()
    assert measure(synchronised, timing=Timing(budget_s=1.0)).median_s == pytest.approx(latency.median_s, rel=0.25)
