"""PyTorch itself as a backend: nothing is lowered, the module is run and measured as it is.

It runs in inference mode with every sub-module in eval mode. On a CUDA device time is taken between events, and
`cuda_graph=True` records a call's kernels once and launches them together, so that what Python and PyTorch do between
kernels does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fxprune.backends.base import Artifact, Runner, measure_module
from fxprune.backends.examples import flat_tensors
from fxprune.backends.machine import describe_device, versions_of
from fxprune.backends.measure import (
    DEFAULT_TIMING,
    Call,
    Clock,
    Latency,
    Peak,
    Timing,
    cuda_clock,
    cuda_peak,
    thread_clock,
    wall_clock,
)
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs, device_of


@dataclass(frozen=True, slots=True)
class EagerRunner:
    """A module on its device. It has to be in eval mode for as long as this is used (`evaluating`).

    Attributes:
        module: what runs.
        cuda_graph: whether bound calls replay a CUDA graph.
    """

    module: nn.Module
    cuda_graph: bool = False

    @property
    def device(self) -> str:
        """The device's name, with PyTorch's number of threads on a CPU."""
        return describe_device(device_of(self.module), torch.get_num_threads())

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python and PyTorch."""
        return versions_of("torch")

    @property
    def clock(self) -> Clock:
        """Events on CUDA, the wall clock elsewhere."""
        device = device_of(self.module)
        return cuda_clock(device) if device.type == "cuda" else wall_clock

    @property
    def own_clock(self) -> Clock | None:
        """The thread's own time, where PyTorch has no other: on a CPU, with one thread."""
        return thread_clock if device_of(self.module).type == "cpu" and torch.get_num_threads() == 1 else None

    @property
    def peak(self) -> Peak | None:
        """PyTorch's allocator tells on CUDA; a CUDA graph has a pool of its own, and on a CPU nobody counts."""
        device = device_of(self.module)
        return cuda_peak(device) if device.type == "cuda" and not self.cuda_graph else None

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        """A call that runs the module on these inputs, in inference mode, and returns what it returns."""

        def call() -> object:
            with torch.inference_mode():
                return self.module(*inputs, **kwinputs)

        return _recorded(call, device_of(self.module)) if self.cuda_graph else call

    def run(self, *inputs: Any, **kwinputs: Any) -> list[Tensor]:
        """The tensors of the module's output, flattened."""
        return flat_tensors(self.bind(*inputs, **kwinputs)())


@dataclass(frozen=True, slots=True)
class EagerBackend:
    """Runs modules with PyTorch."""

    name: str = "eager"

    def available(self) -> str | None:
        """Always usable."""
        return None

    def lower(self, module: nn.Module, path: str | Path, **options: Any) -> Artifact:
        """There is nothing to write.

        Raises:
            BackendError: always.
        """
        _refuse()

    def load(self, path: str | Path, **options: Any) -> Runner:
        """There is nothing to load.

        Raises:
            BackendError: always.
        """
        _refuse()

    @contextmanager
    def prepared(
        self, module: nn.Module, *, example_inputs: Inputs, verify: bool = True, cuda_graph: bool = False
    ) -> Iterator[Runner]:
        """`module` itself, in eval mode while the context lasts; there is nothing to verify.

        Raises:
            BackendError: `cuda_graph` is asked for and the module is not on a CUDA device.
        """
        del example_inputs, verify
        if cuda_graph and device_of(module).type != "cuda":
            raise BackendError(f"cuda_graph=True needs the module on a CUDA device, and it is on {device_of(module)}")
        with evaluating(module):
            yield EagerRunner(module, cuda_graph)

    def measure(
        self, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING, **options: Any
    ) -> Latency:
        """Latency of `module` on the example inputs, on the device where both are; options are those of `prepared`."""
        return measure_module(self, module, example_inputs=example_inputs, timing=timing, **options)


def _recorded(call: Call, device: torch.device) -> Call:
    """`call` as a CUDA graph, after the warm-up on a stream of its own that capture asks for."""
    new_graph: Any = torch.cuda.CUDAGraph  # PyTorch leaves these without annotations
    capturing: Any = torch.cuda.graph
    with torch.cuda.device(device):
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = new_graph()
        with capturing(graph):
            outputs = call()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def _refuse() -> NoReturn:
    raise BackendError(
        "backend 'eager' is PyTorch itself and has no files: fxprune.save writes a slim module, fxprune.load reads it"
    )
