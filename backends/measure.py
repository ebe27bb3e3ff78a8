"""One protocol for latency, whatever the backend.

Warm up until a number of calls or a time is reached; then time single calls until the 95 % confidence interval of the
median (`fxprune.backends.intervals`) is narrower than a fraction of the median, or a time budget ends. What came out
says which: `Latency.settled`. The interval takes samples as independent; on a machine shared with others they drift
together, so it says how repeatable the figure is within one run, not from day to day.

To compare, measure side by side: rounds of one call each, in alternating order (A B, B A, A B, ...), so that drift
meets all alike and cancels, to first order, in the ratio within a round. The speed-up is the median of those paired
ratios.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.backends.intervals import FEWEST_SAMPLES, Interval, median_interval

Call = Callable[[], object]
Clock = Callable[[Call], float]
"""Runs a call to its end and returns how many seconds it took."""
Peak = Callable[[Call], "int | None"]
"""Runs a call and returns how many bytes it took at its peak; None where that cannot be known."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to measure.

    Attributes:
        warmup_calls: untimed calls before the first sample; at least one is made.
        warmup_s: seconds after which no further warm-up call is started.
        relative_width: width of the median's 95 % interval, as a fraction of the median, at which measuring may stop.
        budget_s: seconds per callable after which it stops anyway (six samples are always taken).
        min_samples: samples before the interval is first looked at.
        max_samples: samples after which it stops anyway.
    """

    warmup_calls: int = 5
    warmup_s: float = 1.0
    relative_width: float = 0.02
    budget_s: float = 5.0
    min_samples: int = 20
    max_samples: int = 20_000

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not FEWEST_SAMPLES <= self.min_samples <= self.max_samples:
            raise ValueError(
                f"min_samples={self.min_samples}, max_samples={self.max_samples}: a 95 % interval of the median needs "
                f"{FEWEST_SAMPLES} <= min_samples <= max_samples"
            )
        if not (self.relative_width > 0 and self.budget_s > 0):
            raise ValueError(f"relative_width={self.relative_width} and budget_s={self.budget_s} must be positive")


DEFAULT_TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Latency:
    """What one call takes.

    Attributes:
        median_s: median duration of a call in seconds.
        low_s: lower end of the median's 95 % interval in seconds.
        high_s: upper end of it in seconds.
        samples: number of timed calls.
        deciles_s: lowest and highest decile of a call's duration in seconds: the spread of single calls.
        peak_bytes: most device memory that one call takes beside weights and inputs; None where that is not known: on
            a CPU, and where a runtime has a pool of its own (CUDA graphs, ONNX Runtime).
        settled: whether the interval became as narrow as asked before the budget ended.
        throughput: items a second (batch size / median); None where the batch size is unknown.
        device: what it ran on, in words.
        versions: versions of the packages involved.
        speedup: how many times faster than the first callable it was measured beside, from ratios paired by round;
            None if measured alone.
    """

    median_s: float
    low_s: float
    high_s: float
    samples: int
    settled: bool
    throughput: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    speedup: Interval | None = None
    deciles_s: tuple[float, float] | None = None
    peak_bytes: int | None = None

    @property
    def interval(self) -> Interval:
        """Median and interval in seconds."""
        return Interval(self.median_s, self.low_s, self.high_s)

    def __str__(self) -> str:
        """`1.23 ms [1.21, 1.25]`, with a mark if the interval is wider than asked."""
        low, median, high = (f"{value * 1e3:.3g}" for value in (self.low_s, self.median_s, self.high_s))
        return f"{median} ms [{low}, {high}]" + ("" if self.settled else " (not settled)")


def wall_clock(call: Call) -> float:
    """Seconds by the system's monotonic clock, for calls that return when they are done."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def thread_clock(call: Call) -> float:
    """Seconds that the processor spends in this thread, for calls that do all their work in it.

    Where other processes want the processor too, a call of 50 ms is always interrupted and one of 1 ms hardly ever, so that
    by the wall clock the two do not compare. Waiting does not count.
    """
    start = time.thread_time()
    call()
    return time.thread_time() - start


def cuda_clock(device: torch.device) -> Clock:
    """A clock for calls that queue work on the current stream of a CUDA `device`: time between two events.

    The device is idle when a call starts, so launching it is part of the time, as it is for whoever waits for the
    result.
    """
    new_event: Callable[..., Any] = torch.cuda.Event  # PyTorch leaves its constructor without annotations

    def clock(call: Call) -> float:
        with torch.cuda.device(device):
            start, end = new_event(enable_timing=True), new_event(enable_timing=True)
            torch.cuda.synchronize(device)
            start.record()
            call()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return clock


def cuda_peak(device: torch.device) -> Peak:
    """Most bytes that a call takes of PyTorch's allocator on a CUDA `device`, beyond what is allocated before it."""

    def peak(call: Call) -> int | None:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        outputs = call()
        torch.cuda.synchronize(device)
        del outputs
        return torch.cuda.max_memory_allocated(device) - before

    return peak


def measure(
    call: Call,
    *,
    timing: Timing = DEFAULT_TIMING,
    clock: Clock = wall_clock,
    batch_size: int | None = None,
    device: str = "",
    versions: Mapping[str, str] | None = None,
    peak: Peak | None = None,
) -> Latency:
    """Latency of `call`.

    Args:
        call: does the work once, without arguments.
        timing: how long to measure.
        clock: how one call is timed.
        batch_size: items that a call handles, for the throughput.
        device: what it runs on, copied to the result.
        versions: versions of the packages involved, copied to the result.
        peak: how the memory of one call is measured; None leaves it unknown.

    Returns:
        Median, interval and number of samples.

    Example:
        >>> latency = measure(lambda: sum(range(1000)), timing=Timing(budget_s=0.1))
        >>> latency.low_s <= latency.median_s <= latency.high_s
        True
    """
    measured = measure_side_by_side(
        {"": call}, timing=timing, clock=clock, batch_size=batch_size, device=device, versions=versions, peak=peak
    )
    return measured[""]


def measure_side_by_side(
    callables: Mapping[str, Call],
    *,
    timing: Timing = DEFAULT_TIMING,
    clock: Clock = wall_clock,
    batch_size: int | None = None,
    device: str = "",
    versions: Mapping[str, str] | None = None,
    peak: Peak | None = None,
) -> dict[str, Latency]:
    """Latencies of several callables in interleaved rounds, and how many times faster than the first each is.

    Args:
        callables: what to compare, by name; at least one. Measuring ends when every latency and every speed-up is known
            as narrowly as `timing` asks.
        timing: how long to measure.
        clock: how one call is timed, the same for all.
        batch_size: items that a call handles, for the throughput.
        device: what they run on, copied to the results.
        versions: versions of the packages involved, copied to the results.
        peak: how the memory of one call is measured; None leaves it unknown.

    Returns:
        A latency for each name, in the same order; `speedup` is set where there are several.
    """
    assert callables, "nothing to measure"
    calls = list(callables.values())
    with _uncollected():
        for call in calls:
            _warm_up(call, timing)
        peaks = [None if peak is None else peak(call) for call in calls]
        seconds = _sample(calls, timing, clock)
    details = {"device": device, "versions": dict(versions or {})}
    return {
        name: _latency(seconds, column, timing, batch_size, {**details, "peak_bytes": peaks[column]})
        for column, name in enumerate(callables)
    }


def _latency(
    seconds: NDArray[np.float64], column: int, timing: Timing, batch_size: int | None, details: Mapping[str, Any]
) -> Latency:
    """Summary of one column of `seconds` [rounds, callables]."""
    interval = median_interval(seconds[:, column])
    low, high = np.quantile(seconds[:, column], (0.1, 0.9)).tolist()
    return Latency(
        median_s=interval.median,
        low_s=interval.low,
        high_s=interval.high,
        samples=len(seconds),
        settled=interval.relative_width <= timing.relative_width,
        throughput=None if batch_size is None else batch_size / interval.median,
        speedup=None if seconds.shape[1] == 1 else median_interval(seconds[:, 0] / seconds[:, column]),
        deciles_s=(low, high),
        **details,
    )


def _warm_up(call: Call, timing: Timing) -> None:
    """Call at least once, then until the calls or the seconds are used up."""
    start = time.perf_counter()
    for _ in range(max(timing.warmup_calls, 1)):
        call()
        if time.perf_counter() - start >= timing.warmup_s:
            return


def _sample(calls: Sequence[Call], timing: Timing, clock: Clock) -> NDArray[np.float64]:
    """Seconds [rounds, callables], rounds until settled or the budget ends.

    The interval is looked at after every quarter more samples: looking each time would cost more than short calls do,
    and would stop on lucky streaks more often.
    """
    rounds: list[list[float]] = []
    end = time.perf_counter() + timing.budget_s * len(calls)
    due = timing.min_samples
    while len(rounds) < timing.max_samples:
        rounds.append(_round(calls, clock, backwards=len(rounds) % 2 == 1))
        if len(rounds) >= FEWEST_SAMPLES and time.perf_counter() >= end:
            break
        if len(rounds) == due:
            if _settled(np.array(rounds), timing.relative_width):
                break
            due += due // 4
    return np.array(rounds)


def _round(calls: Sequence[Call], clock: Clock, *, backwards: bool) -> list[float]:
    """Seconds of one call of each, in the order of `calls`; called from the last to the first if `backwards`."""
    if backwards:
        return [clock(call) for call in reversed(calls)][::-1]
    return [clock(call) for call in calls]


def _settled(seconds: NDArray[np.float64], relative_width: float) -> bool:
    """Whether all medians of `seconds` [rounds, callables], and of ratios to the first column, are known narrowly."""
    columns = [*seconds.T, *(seconds[:, :1] / seconds[:, 1:]).T]
    return all(median_interval(column).relative_width <= relative_width for column in columns)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from running inside a sample."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
