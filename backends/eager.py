"""PyTorch itself as a backend: nothing is lowered, the module is run and measured as it is.

It runs in inference mode with every sub-module in eval mode. On a CUDA device time is taken between events.
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
from fxprune.backends.measure import DEFAULT_TIMING, Call, Clock, Latency, Timing, cuda_clock, wall_clock
from fxprune.errors import BackendError
from fxprune.inputs import Inputs, device_of


@dataclass(frozen=True, slots=True)
class EagerRunner:
    """A module on its device. It has to be in eval mode for as long as this is used (`evaluating`)."""

    module: nn.Module

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

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        """A call that runs the module on these inputs, in inference mode, and returns what it returns."""

        def call() -> object:
            with torch.inference_mode():
                return self.module(*inputs, **kwinputs)

        return call

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
    def prepared(self, module: nn.Module, *, example_inputs: Inputs, **options: Any) -> Iterator[Runner]:
        """`module` itself, in eval mode while the context lasts; `verify` and other options mean nothing here."""
        del example_inputs, options
        with evaluating(module):
            yield EagerRunner(module)

    def measure(self, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING) -> Latency:
        """Latency of `module` on the example inputs, on the device where both are."""
        return measure_module(self, module, example_inputs=example_inputs, timing=timing)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Every sub-module in eval mode while the context lasts; afterwards each has its own flag again.

    The flags are set one by one: `module.eval()` may do more in classes that override it, which could not be undone.
    """
    flags = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in flags:
            child.training = False
        yield module
    finally:
        for child, flag in flags:
            child.training = flag


def _refuse() -> NoReturn:
    raise BackendError(
        "backend 'eager' is PyTorch itself and has no files: fxprune.save writes a slim module, fxprune.load reads it"
    )
