"""What a backend is: it turns a PyTorch module into an artifact for some runtime, runs it and measures it.

Backends take example inputs in one form, the pair of positional and keyword arguments that a slim module keeps as its
`example_inputs`; `fxprune.lower` and `fxprune.bench` accept whatever users write. `fxprune.backends.registry` finds a
backend by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fxprune.backends.examples import batch_size_of
from fxprune.backends.measure import DEFAULT_TIMING, Call, Clock, Latency, Peak, Timing, measure
from fxprune.inputs import Inputs


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of an artifact: its name, its dtype (`float32`), its shape with names for dynamic sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        """`images: float32 [batch, 3, 224, 224]`."""
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A lowered module on disk.

    Attributes:
        path: the file to load.
        backend: name of the backend that wrote it.
        opset: ONNX operator set version; None where the format has none.
        inputs: what to feed, in order.
        outputs: what comes back, in order: the tensors of the module's output, flattened.
        largest_relative_error: largest difference to the PyTorch module seen (`fxprune.backends.parity`); None if it
            was not compared.
        size_bytes: size of all its files.
        notes: what the user should know, such as why the batch size is fixed; the exporter's own warnings too.
    """

    path: Path
    backend: str
    opset: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    largest_relative_error: float | None
    size_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Names of the dynamic sizes by dimension, of the inputs and outputs that have any."""
        named = {
            spec.name: {dim: size for dim, size in enumerate(spec.shape) if isinstance(size, str)}
            for spec in (*self.inputs, *self.outputs)
        }
        return {name: axes for name, axes in named.items() if axes}


class Runner(Protocol):
    """A module or artifact, ready to run.

    One that can tell how much memory a call takes has a property `peak` too (`fxprune.backends.measure.Peak`). One whose calls
    do all their work in the calling thread has a property `own_clock`, which counts nothing but that
    (`fxprune.backends.measure.thread_clock`), or is None where that is not so.
    """

    @property
    def device(self) -> str:
        """What it runs on, in words."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the packages it runs with."""

    @property
    def clock(self) -> Clock:
        """How one call is timed."""

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        """A call without arguments that computes the outputs for these inputs, with all preparation already done."""

    def run(self, *inputs: Any, **kwinputs: Any) -> list[Tensor]:
        """The tensors of the output, flattened in the order of PyTorch's pytrees."""


@runtime_checkable
class Backend(Protocol):
    """What fxprune asks of a backend.

    One that can write files which cannot be run here has a method `runnable()` too, which says so as `available` does. One
    for which several modules at a time are cheaper has a method `prepared_together` (`fxprune.backends.together`).

    Each backend has options of its own beyond the arguments that the docstrings show, all by keyword; the methods are
    declared with arguments of any kind. `example_inputs` is the pair `(args, kwargs)`.
    """

    @property
    def name(self) -> str:
        """The name it is asked for by."""

    def available(self) -> str | None:
        """None if it can be used here, else one line that says what to install."""

    def lower(self, *args: Any, **options: Any) -> Artifact:
        """`lower(module, path, *, example_inputs, verify=True, **options)`.

        Write `module`, as it is in eval mode, to `path`, whole or not at all, and compare the two if `verify`.
        """

    def load(self, *args: Any, **options: Any) -> Runner:
        """`load(path, **options)`: open an artifact that `lower` wrote."""

    def prepared(self, *args: Any, **options: Any) -> AbstractContextManager[Runner]:
        """`prepared(module, *, example_inputs, verify=True, **options)`.

        `module` in eval mode as this backend runs it, for as long as the context lasts; leaves no files and no changes.
        """

    def measure(self, *args: Any, **options: Any) -> Latency:
        """`measure(module, *, example_inputs, timing=DEFAULT_TIMING, **options)`: latency on the example inputs."""


def why_not_runnable(backend: Backend) -> str | None:
    """None if `backend` can run modules here, else one line that says what is missing."""
    ask: Callable[[], str | None] = getattr(backend, "runnable", backend.available)
    return ask()


def measure_module(
    backend: Backend, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING, **options: Any
) -> Latency:
    """Latency of `module` as `backend` runs it: what a backend's `measure` does.

    Args:
        backend: where it runs.
        module: what runs, in eval mode.
        example_inputs: positional and keyword arguments that it runs on.
        timing: how long to measure.
        options: the backend's own, for preparing the module.

    Raises:
        BackendError: the backend cannot run the module.
    """
    args, kwargs = example_inputs
    with backend.prepared(module, example_inputs=example_inputs, **options) as runner:
        return measure(
            runner.bind(*args, **kwargs),
            timing=timing,
            clock=runner.clock,
            batch_size=batch_size_of(example_inputs),
            device=runner.device,
            versions=runner.versions,
            peak=peak_of(runner),
        )


def peak_of(runner: Runner) -> Peak | None:
    """How a runner measures the memory of a call: what its property `peak` says, if it has one."""
    found: Peak | None = getattr(runner, "peak", None)
    return found


def own_clock_of(runner: Runner) -> Clock:
    """How a call is timed where what other processes do is not to count, as far as the runner can tell it apart."""
    found: Clock | None = getattr(runner, "own_clock", None)
    return runner.clock if found is None else found
