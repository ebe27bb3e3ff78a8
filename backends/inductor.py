"""PyTorch's own compiler as a backend: AOTInductor packages as files, `torch.compile` to measure.

A package (`.pt2`) is a compiled library with its weights, which runs without Python's part of PyTorch's compiler; it
takes the module's arguments and returns its outputs, nested as they are. Opening one runs its native code: open only
packages of people you trust. What a package was compiled by and for stands in its metadata, which are read from the
archive before anything of it runs.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxprune.backends.atomic import replacing
from fxprune.backends.base import Artifact, Runner, TensorSpec, measure_module
from fxprune.backends.dynamic import BATCH, DEPENDS, batch_shapes, traceable, why_fixed
from fxprune.backends.examples import batch_size_of, cloned, flat_tensors
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
from fxprune.backends.onnx import largest_error
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs, device_of

METADATA = "fxprune"
"""Key of our entry in a package's metadata: JSON object with `torch` (version), `device`."""

LIBRARIES = (".so", ".dylib", ".dll", ".pyd")
"""How names of compiled code end."""

_RECOMPILE_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class InductorRunner:
    """A compiled module, from a package or from `torch.compile`.

    Attributes:
        function: takes the module's arguments and returns its outputs.
        torch_device: where it runs.
        counted: whether what a call takes comes from PyTorch's allocator, not from the pool of a CUDA graph.
    """

    function: Callable[..., Any]
    torch_device: torch.device
    counted: bool = True

    @property
    def device(self) -> str:
        """The device's name, with PyTorch's number of threads on a CPU."""
        return describe_device(self.torch_device, torch.get_num_threads())

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python, PyTorch and Triton."""
        return versions_of("torch", "triton")

    @property
    def clock(self) -> Clock:
        """Events on CUDA, the wall clock elsewhere."""
        return cuda_clock(self.torch_device) if self.torch_device.type == "cuda" else wall_clock

    @property
    def own_clock(self) -> Clock | None:
        """The thread's own time, where PyTorch has no other: on a CPU, with one thread."""
        return thread_clock if self.torch_device.type == "cpu" and torch.get_num_threads() == 1 else None

    @property
    def peak(self) -> Peak | None:
        """PyTorch's allocator tells on CUDA."""
        return cuda_peak(self.torch_device) if self.torch_device.type == "cuda" and self.counted else None

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        """A call that runs on these inputs and returns the outputs; they may be overwritten by the next call."""

        def call() -> object:
            with torch.inference_mode(), _quiet(), _strict_compilation():
                return self.function(*inputs, **kwinputs)

        return call

    def run(self, *inputs: Any, **kwinputs: Any) -> list[Tensor]:
        """The tensors of the output, flattened.

        Raises:
            BackendError: Inductor cannot compile the module, or the inputs do not fit what was compiled.
        """
        try:
            outputs = self.bind(*inputs, **kwinputs)()
        except Exception as error:
            # The compiler and its runtime raise what they please.
            raise BackendError(f"Inductor failed: {_first_line(error)}") from error
        return [tensor.clone() for tensor in flat_tensors(outputs)]


@dataclass(frozen=True, slots=True)
class InductorBackend:
    """Compiles modules with Inductor, for the device that they are on."""

    name: str = "inductor"

    def available(self) -> str | None:
        """None if there is a C++ compiler, else what to install."""
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception:
            # PyTorch's own exception differs between its versions and systems.
            return "there is no C++ compiler: install g++ (apt-get install g++) or clang++, or name one in $CXX"
        return None

    def lower(
        self,
        module: nn.Module,
        path: str | Path,
        *,
        example_inputs: Inputs,
        dynamic_batch: bool = True,
        verify: bool = True,
        tolerance: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Compile `module` into an AOTInductor package at `path`, whole or not at all.

        Args:
            module: what to compile, in eval mode; it stays as it is.
            path: the file to write, ending in `.pt2`, in a folder that exists.
            example_inputs: positional and keyword arguments to trace and compare with.
            dynamic_batch: leave the batch size open where possible; a note says where it was not.
            verify: run the package and compare it with the module.
            tolerance: largest relative error of an output; None for the dtype's default.
            options: settings of `torch._inductor.config`, such as `{"max_autotune": True}`.

        Raises:
            BackendError: the module cannot be traced or compiled, or the path does not end in `.pt2`.
            VerificationError: the package computes something else than the module; nothing was written.
        """
        path = Path(path)
        if path.suffix != ".pt2":
            raise BackendError(f"{path}: the name of an AOTInductor package ends in .pt2, such as {path.stem}.pt2")
        with evaluating(module), replacing(path) as staged:
            program, notes = _trace(module, example_inputs, dynamic_batch=dynamic_batch)
            _compile(program, staged, device_of(module), options)
            error = None
            if verify:
                runner = open_package(staged)
                error = largest_error(module, runner, example_inputs, _sizes(program, example_inputs), tolerance, path)
            size = staged.stat().st_size
        specs = _specs(program)
        return Artifact(
            path=path,
            backend=self.name,
            opset=None,
            inputs=specs[0],
            outputs=specs[1],
            largest_relative_error=error,
            size_bytes=size,
            notes=notes,
        )

    def load(self, path: str | Path) -> Runner:
        """Open a package that `lower` wrote; this runs native code of the file.

        Raises:
            BackendError: it is no package, or was compiled by another version of PyTorch or for a device not here.
        """
        return open_package(Path(path))

    @contextmanager
    def prepared(
        self,
        module: nn.Module,
        *,
        example_inputs: Inputs,
        verify: bool = True,
        tolerance: float | None = None,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[Runner]:
        """`module` through `torch.compile` for the sizes of the example inputs, in eval mode while the context lasts.

        Args:
            module: what to compile.
            example_inputs: what it is compiled for.
            verify: compare with the module uncompiled.
            tolerance: largest relative error of an output; None for the dtype's default.
            mode: of `torch.compile`: `default`, `reduce-overhead` (CUDA graphs), `max-autotune`, ...
            options: settings of `torch._inductor.config`, instead of a mode.

        Raises:
            BackendError: the mode is none, or Inductor cannot compile the module.
            VerificationError: the compiled module computes something else.
        """
        _check_mode(mode, options)
        with evaluating(module):
            function: Any = torch.compile(
                module, mode=mode, options=None if options is None else dict(options), dynamic=False
            )
            runner = InductorRunner(function, device_of(module), counted=mode is None and options is None)
            args, kwargs = cloned(example_inputs)
            runner.run(*args, **kwargs)
            if verify:
                sizes = (batch_size_of(example_inputs) or 0,)
                where = Path(f"torch.compile of {type(module).__name__}")
                largest_error(module, runner, example_inputs, sizes, tolerance, where)
            yield runner

    def measure(
        self, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING, **options: Any
    ) -> Latency:
        """Latency of `module` through `torch.compile`; options are those of `prepared`."""
        return measure_module(self, module, example_inputs=example_inputs, timing=timing, **options)


def open_package(path: Path) -> InductorRunner:
    """Open an AOTInductor package of this version of PyTorch, for a device that is here.

    Raises:
        BackendError: there is no such file, it is damaged or foreign.
    """
    known = _read_metadata(path)
    if known["torch"] != str(torch.__version__):
        raise BackendError(
            f"{path} was compiled by torch {known['torch']}, installed is {torch.__version__}: lower the module again"
        )
    device = torch.device(known["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"{path} was compiled for a CUDA device, and there is none here")
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(LIBRARIES) for name in archive.namelist()):  # torch 2.11 follows a null pointer then
            raise BackendError(f"{path} cannot be opened: it holds no compiled code")
    try:
        with _quiet():
            function = torch._inductor.aoti_load_package(str(path))
    except Exception as error:
        raise BackendError(f"{path} cannot be opened: {_first_line(error)}") from error
    return InductorRunner(function, device)


def _read_metadata(path: Path) -> dict[str, str]:
    """Our entry in a package's metadata, from the archive."""
    if not path.is_file():
        raise BackendError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("metadata.json")]
            found = [json.loads(archive.read(name)).get(METADATA) for name in names]
        known: dict[str, str] = json.loads(next(filter(None, found)))
        return {"torch": known["torch"], "device": known["device"]}
    except (zipfile.BadZipFile, StopIteration, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BackendError(f"{path} is no AOTInductor package that fxprune.lower wrote") from error


def _trace(module: nn.Module, inputs: Inputs, *, dynamic_batch: bool) -> tuple[ExportedProgram, tuple[str, ...]]:
    """The module as a program, with a dynamic batch dimension where that is asked for and possible, and why it is not."""
    if not dynamic_batch:
        return _export(module, inputs, None), ()
    reason = why_fixed(module, inputs)
    if reason is None:
        traced = traceable(inputs)
        try:
            return _export(module, traced, batch_shapes(module, traced)), ()
        except BackendError:
            reason = DEPENDS
    return _export(module, inputs, None), (f"the batch size is fixed to {batch_size_of(inputs)}: {reason}",)


def _export(module: nn.Module, inputs: Inputs, shapes: Any) -> ExportedProgram:
    args, kwargs = inputs
    try:
        with torch.no_grad():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        # Tracing runs the user's code, which raises what it pleases.
        raise BackendError(f"torch.export cannot trace the module: {_first_line(error)}") from error


def _compile(program: ExportedProgram, path: Path, device: torch.device, options: Mapping[str, Any] | None) -> None:
    """Write the package."""
    known = json.dumps({"torch": str(torch.__version__), "device": device.type})
    settings = {**(options or {}), "aot_inductor.metadata": {METADATA: known}}
    try:
        with torch.no_grad(), _quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    except Exception as error:
        raise BackendError(f"AOTInductor cannot compile the module: {_first_line(error)}") from error


def _sizes(program: ExportedProgram, inputs: Inputs) -> tuple[int, ...]:
    """Batch sizes to compare at: that of the example inputs and, where it may change, one more."""
    size = batch_size_of(inputs) or 0
    return (size, size + 1) if any(BATCH in spec.shape for spec in _specs(program)[0]) else (size,)


def _specs(program: ExportedProgram) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the program, by name, with `batch` for the dynamic size."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    return (
        tuple(_spec(str(name), values[name]) for name in signature.user_inputs if _is_tensor(values, name)),
        tuple(_spec(str(name), values[name]) for name in signature.user_outputs if _is_tensor(values, name)),
    )


def _is_tensor(values: Mapping[str, Any], name: Any) -> bool:
    return isinstance(name, str) and isinstance(values.get(name), Tensor)


def _spec(name: str, value: Tensor) -> TensorSpec:
    shape = tuple(
        size if isinstance(size, int) else BATCH if size.node.expr.is_symbol else str(size) for size in value.shape
    )
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), shape)


def _check_mode(mode: str | None, options: Mapping[str, Any] | None) -> None:
    known = list(torch._inductor.list_mode_options())
    if mode is not None and mode not in known:
        raise BackendError(f"mode={mode!r} is none of torch.compile's: pass {', '.join(map(repr, known))}")
    if mode is not None and options is not None:
        raise BackendError("torch.compile takes mode= or options=, not both")


def _strict_compilation() -> Any:
    """Never run uncompiled without a word: many sizes are compiled, and more than that are an error."""
    settings: Any = torch._dynamo.config
    return settings.patch(recompile_limit=_RECOMPILE_LIMIT, fail_on_recompile_limit_hit=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without deprecations within PyTorch's compiler, which are no business of its user's."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


def _first_line(error: BaseException) -> str:
    lines = filter(None, map(str.strip, str(error).splitlines()))
    return next(lines, type(error).__name__)
