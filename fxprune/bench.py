"""`fxprune.bench`: how long modules take, side by side, on one backend or several.

All modules run on a backend at one batch size are measured in interleaved rounds (`fxprune.backends.measure`), so that
their speed-ups hold on a machine whose speed drifts. Backends are measured one after the other, since their thread
pools would disturb each other: how much faster one is than the first is the quotient of two separate intervals, and as
wide as the two together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.backends.base import Backend, Runner, peak_of, why_not_runnable
from fxprune.backends.examples import batch_size_of, example_inputs_of, resize_batch
from fxprune.backends.intervals import Interval
from fxprune.backends.measure import DEFAULT_TIMING, Latency, Timing, measure_side_by_side
from fxprune.backends.registry import get_backend
from fxprune.errors import BackendError, InputError
from fxprune.inputs import Inputs

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One module on one backend at one batch size.

    Attributes:
        module: the module's name.
        backend: the backend's name.
        batch_size: samples in a call; None where the inputs have no batch dimension.
        latency: what a call takes; its `speedup` is over the first module of the same backend and batch size.
        over_first_backend: how many times faster than the same module on the first backend at this batch size; None on
            the first backend.
    """

    module: str
    backend: str
    batch_size: int | None
    latency: Latency
    over_first_backend: Interval | None = None


@dataclass(frozen=True, slots=True)
class BenchTable:
    """What `bench` measured.

    Attributes:
        rows: by batch size, then backend, then module, each in the order given.
        skipped: backends that are not available here, with the reason.
    """

    rows: tuple[BenchRow, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The table as text, without colours."""
        from rich.console import Console

        console = Console(width=160, no_color=True, force_terminal=False)
        with console.capture() as capture:
            console.print(self.__rich__())
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

    def __rich__(self) -> Table:
        """The table as `rich` prints it."""
        return _table(self)

    def to_json(self) -> str:
        """All figures, in seconds and items a second, as a JSON object with `rows` and `skipped`."""
        return json.dumps({"rows": [asdict(row) for row in self.rows], "skipped": dict(self.skipped)}, indent=2)


def bench(
    modules: nn.Module | Mapping[str, nn.Module],
    backends: Sequence[str] = ("eager",),
    *,
    example_inputs: object = None,
    batch_sizes: Sequence[int] | None = None,
    timing: Timing = DEFAULT_TIMING,
    threads: int | None = None,
    verify: bool = True,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> BenchTable:
    """Measure the latency of modules in eval mode.

    Args:
        modules: one module, or several by name; speed-ups are over the first.
        backends: names of backends; one that lacks a package here is left out, and the table says so.
        example_inputs: what the modules run on: a tuple is positional, a dict keyword, a tensor one argument. The
            default is the first `example_inputs` that a module has.
        batch_sizes: batch sizes to repeat or cut the example inputs to; None leaves them as they are.
        timing: how long to measure each module: width of the interval to reach, and time budget.
        threads: CPU threads for all backends; None takes PyTorch's setting.
        verify: compare what lowered modules compute with PyTorch before measuring them.
        options: options of backends, by a backend's name: `{"tensorrt": {"precision": "fp16"}, "eager": {"cuda_graph":
            True}}`.

    Returns:
        A table that prints itself: median, 95 % interval, throughput, speed-up.

    Raises:
        InputError: there are no modules or example inputs, or the batch sizes make no sense.
        BackendError: none of the backends is available, or one cannot run a module.
        VerificationError: a backend computes something else than PyTorch.

    Example:
        >>> table = bench(nn.Linear(4, 2), example_inputs=torch.ones(1, 4), timing=Timing(budget_s=0.1))
        >>> [row.backend for row in table.rows]
        ['eager']
    """
    named = {type(modules).__name__: modules} if isinstance(modules, nn.Module) else dict(modules)
    if not named:
        raise InputError("there are no modules to measure: pass a module, or a dict of modules by name")
    inputs = example_inputs_of(*named.values(), given=example_inputs)
    usable, skipped = _usable(backends)
    idle = set(options or {}) - {*skipped, *(backend.name for backend in usable)}
    if idle:
        raise InputError(f"options= speaks of {', '.join(sorted(idle))}, which is not among the backends")
    rows: list[BenchRow] = []
    with _threads(threads):
        for resized in _resized(inputs, batch_sizes):
            rows += _rows_at(named, usable, resized, timing, verify=verify, options=options or {})
    return BenchTable(tuple(rows), skipped)


def _usable(names: Sequence[str]) -> tuple[list[Backend], dict[str, str]]:
    """The backends that can be used, and why the others cannot."""
    names = [names] if isinstance(names, str) else list(names)
    reasons = {name: why_not_runnable(get_backend(name)) for name in names}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    usable = [get_backend(name) for name in reasons if name not in skipped]
    if not usable:
        raise BackendError(
            f"no backend to measure on: {'; '.join(map(': '.join, skipped.items())) or 'none was named'}"
        )
    return usable, skipped


def _resized(inputs: Inputs, batch_sizes: Sequence[int] | None) -> list[Inputs]:
    """The inputs at each batch size asked for."""
    if batch_sizes is None:
        return [inputs]
    if not batch_size_of(inputs):
        raise InputError("batch_sizes= needs example inputs with a batch dimension (dimension 0 of a tensor)")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch_sizes={list(batch_sizes)} has to name positive sizes, such as [1, 8]")
    return [resize_batch(inputs, size) for size in batch_sizes]


def _rows_at(
    modules: Mapping[str, nn.Module],
    backends: Sequence[Backend],
    inputs: Inputs,
    timing: Timing,
    *,
    verify: bool,
    options: Mapping[str, Mapping[str, Any]],
) -> list[BenchRow]:
    """Rows of all backends at the batch size of `inputs`."""
    measured = {
        backend.name: _latencies(modules, backend, inputs, timing, {"verify": verify, **options.get(backend.name, {})})
        for backend in backends
    }
    first, *_ = measured
    return [
        BenchRow(
            module=name,
            backend=backend,
            batch_size=batch_size_of(inputs),
            latency=latency,
            over_first_backend=None if backend == first else _quotient(measured[first][name], latency),
        )
        for backend, latencies in measured.items()
        for name, latency in latencies.items()
    ]


def _latencies(
    modules: Mapping[str, nn.Module], backend: Backend, inputs: Inputs, timing: Timing, options: Mapping[str, Any]
) -> dict[str, Latency]:
    """Latencies of all modules on one backend with these options, measured side by side."""
    args, kwargs = inputs
    with ExitStack() as stack:
        runners: dict[str, Runner] = {
            name: stack.enter_context(backend.prepared(module, example_inputs=inputs, **options))
            for name, module in modules.items()
        }
        runner = next(iter(runners.values()))
        return measure_side_by_side(
            {name: each.bind(*args, **kwargs) for name, each in runners.items()},
            timing=timing,
            clock=runner.clock,
            batch_size=batch_size_of(inputs),
            device=runner.device,
            versions=runner.versions,
            peak=peak_of(runner),
        )


def _quotient(first: Latency, other: Latency) -> Interval:
    """How many times faster `other` is than `first`, from two separate intervals: their extremes."""
    return Interval(first.median_s / other.median_s, first.low_s / other.high_s, first.high_s / other.low_s)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch's number of threads, which the backends follow, while the context lasts."""
    former = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(former)


def _table(table: BenchTable) -> Table:
    """Lay out a table: a speed-up column for modules and one for backends, each only where there are several."""
    from rich.table import Table

    over_module = any(row.latency.speedup is not None for row in table.rows)
    over_backend = any(row.over_first_backend is not None for row in table.rows)
    first = table.rows[0]
    skipped = [f"{name} left out: {reason}" for name, reason in table.skipped.items()]
    laid_out = Table(caption="\n".join([*_machines(table), *skipped]), caption_justify="left")
    for heading in ("module", "backend"):
        laid_out.add_column(heading)
    for heading in ("batch", "median ms", "95 % interval", "items/s"):
        laid_out.add_column(heading, justify="right")
    if over_module:
        laid_out.add_column(f"over {first.module}", justify="right")
    if over_backend:
        laid_out.add_column(f"over {first.backend}", justify="right")
    for row in table.rows:
        speedups: list[Any] = [row.latency.speedup] * over_module + [row.over_first_backend] * over_backend
        laid_out.add_row(*_cells(row), *map(_factor, speedups))
    return laid_out


def _cells(row: BenchRow) -> tuple[str, ...]:
    """What a row shows before its speed-ups."""
    latency = row.latency
    low, median, high = (f"{value * 1e3:.4g}" for value in (latency.low_s, latency.median_s, latency.high_s))
    return (
        row.module,
        row.backend,
        "-" if row.batch_size is None else str(row.batch_size),
        median,
        f"{low} .. {high}" + ("" if latency.settled else " *"),
        "-" if latency.throughput is None else f"{latency.throughput:.4g}",
    )


def _factor(interval: Interval | None) -> str:
    """`1.84x (1.82 .. 1.86)`; a dash where there is nothing to compare with."""
    return "-" if interval is None else f"{interval.median:.3g}x ({interval.low:.3g} .. {interval.high:.3g})"


def _machines(table: BenchTable) -> list[str]:
    """What was measured on, and what the star means if there is one."""
    lines = sorted(
        {
            f"{row.latency.device}; " + ", ".join(f"{name} {number}" for name, number in row.latency.versions.items())
            for row in table.rows
        }
    )
    wide = any(not row.latency.settled for row in table.rows)
    return lines + ["* the time budget ended before the interval was as narrow as asked"] * wide
