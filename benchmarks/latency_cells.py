"""Measuring one cell of the latency benchmark: variants in one dtype, on one backend, at one batch size, side by side.

Rounds are interleaved, so that speed-ups over the original hold on a machine whose speed drifts. On a GPU, CNNs and their images
are laid out with channels last. Where one variant cannot run, the others are measured beside the original one by one.
"""

from __future__ import annotations

import copy
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from benchmarks.latency_models import SUBJECTS, Subject
from benchmarks.latency_records import Cell
from fxprune.backends import Timing
from fxprune.backends.base import peak_of
from fxprune.backends.measure import measure_side_by_side
from fxprune.backends.registry import get_backend

BACKENDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "eager": ("eager", {}),
    "cuda-graph": ("eager", {"cuda_graph": True}),
    "inductor": ("inductor", {}),
    "inductor-graphs": ("inductor", {"mode": "reduce-overhead"}),
    "inductor-autotune": ("inductor", {"mode": "max-autotune"}),
    "onnxruntime": ("onnxruntime", {}),
    "tensorrt": ("tensorrt", {}),
}
OWN = ("fxprune-latency", "fxprune-backend")
"""Kinds of variants that are compiled for a cell: to a budget of latency, and with widths that its backend computes fast."""
Made = tuple[nn.Module | None, dict[str, Any]]


@dataclass(slots=True)
class Bench:
    """How cells are measured, and what was compiled for several of them.

    Attributes:
        device: where.
        share: of the original's FLOPs or latency that `OWN` variants are compiled to.
        timing: of each module.
        say: tells how far it is.
        lock: file that processes hold while they measure, so that several may prepare at once on one device.
        made: variants compiled for cells.
    """

    device: torch.device
    share: float
    timing: Timing
    say: Callable[[str], None]
    lock: Path | None = None
    made: dict[tuple[Any, ...], Made] = field(default_factory=dict)

    def measure(
        self, cell: Cell, modules: Mapping[str, nn.Module], own: tuple[str, ...]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Latency of each variant, and facts of those that are compiled for the cell.

        Args:
            cell: what is measured.
            modules: variants that are the same in all cells, on the CPU in float32; the original first.
            own: names of the others.
        """
        subject = SUBJECTS[cell.model]
        torch.manual_seed(1)
        example = inputs_of(subject, cell, self.device)
        there = {name: placed(module, subject, cell, self.device) for name, module in modules.items()}
        facts: dict[str, Any] = {}
        failed: dict[str, Any] = {}
        for name in own:
            slim, facts[name] = self._compiled(name, there["original"], example, cell)
            if slim is None:
                failed[name] = {"error": facts[name]["error"]}
            else:
                there[name] = slim
        return _together(there, example, cell, self) | failed, facts

    def _compiled(self, name: str, original: nn.Module, example: Tensor, cell: Cell) -> Made:
        """A variant that is compiled for a cell, once for all cells that it is the same for."""
        kind, _, backend = name.partition(":")
        key = (kind, cell.model, cell.dtype, cell.batch, backend or cell.backend)
        if key not in self.made:
            started = time.perf_counter()
            try:
                with alone_on(self.lock):
                    self.made[key] = _for_cell(kind, original, example, backend or cell.backend, self.share)
            except Exception as error:  # a budget that cannot be met is a result
                self.made[key] = (None, {"error": f"{type(error).__name__}: {error}"[:300]})
            self.say(f"  {cell} {name}: {self.made[key][1]} in {time.perf_counter() - started:.0f} s")
        return self.made[key]


def _for_cell(kind: str, model: nn.Module, example: Tensor, backend: str, share: float) -> Made:
    """The model, compiled to a budget on a backend; with what the report says of it."""
    name, options = BACKENDS[backend]
    budget: Any = {"latency": f"{share:.0%}"} if kind == "fxprune-latency" else share
    torch.compiler.reset()
    slim = fxprune.compile(
        model,
        budget,
        example_inputs=(example,),
        progress=False,
        backend=name,
        backend_options=dict(options),
        verify=False,
    )
    metrics = {metric.name: metric for metric in slim.report.metrics}
    shares = {metric: metrics[metric].after / metrics[metric].before for metric in ("flops", "params")}
    return slim, {**shares, "notes": slim.report.notes[-3:]}


def placed(module: nn.Module, subject: Subject, cell: Cell, device: torch.device) -> nn.Module:
    """A copy in the cell's dtype on the device."""
    moved: nn.Module = copy.deepcopy(module).to(device=device, dtype=getattr(torch, cell.dtype)).eval()
    if subject.channels_last and device.type == "cuda":
        moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def inputs_of(subject: Subject, cell: Cell, device: torch.device) -> Tensor:
    """Inputs of the cell's batch size and dtype on the device."""
    example = subject.example(cell.batch).to(device)
    if not example.is_floating_point():
        return example
    example = example.to(getattr(torch, cell.dtype))
    last = subject.channels_last and device.type == "cuda"
    return example.contiguous(memory_format=torch.channels_last) if last else example


def _together(modules: Mapping[str, nn.Module], example: Tensor, cell: Cell, bench: Bench) -> dict[str, Any]:
    try:
        return _measured(modules, example, cell, bench)
    except Exception:
        first, *others = modules
    found: dict[str, Any] = _alone({first: modules[first]}, example, cell, bench)
    if "error" in found[first]:
        return dict.fromkeys(modules, found[first])
    for other in others:
        found |= _alone({first: modules[first], other: modules[other]}, example, cell, bench)
    return found


def _alone(modules: Mapping[str, nn.Module], example: Tensor, cell: Cell, bench: Bench) -> dict[str, Any]:
    """One variant, the last of the modules, or why it cannot run."""
    try:
        return _measured(modules, example, cell, bench)
    except Exception as error:
        return {list(modules)[-1]: {"error": f"{type(error).__name__}: {error}"[:300]}}


def _measured(modules: Mapping[str, nn.Module], example: Tensor, cell: Cell, bench: Bench) -> dict[str, Any]:
    """Latencies of all modules, prepared one after the other and measured together."""
    name, options = BACKENDS[cell.backend]
    torch.compiler.reset()
    with ExitStack() as stack:
        runners = {
            each: stack.enter_context(
                get_backend(name).prepared(module, example_inputs=((example,), {}), verify=False, **options)
            )
            for each, module in modules.items()
        }
        calls = {each: runner.bind(example) for each, runner in runners.items()}
        first = next(iter(runners.values()))
        details: dict[str, Any] = {"device": first.device, "versions": first.versions, "batch_size": cell.batch}
        with alone_on(bench.lock):
            found = measure_side_by_side(calls, timing=bench.timing, clock=first.clock, peak=peak_of(first), **details)
    return {each: asdict(latency) for each, latency in found.items()}


@contextmanager
def alone_on(lock: Path | None) -> Iterator[None]:
    """Wait until no other process holds the file, and hold it meanwhile; nothing without one."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
