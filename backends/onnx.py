"""ONNX files, written by PyTorch's exporter, checked by ONNX and compared with PyTorch through ONNX Runtime.

A file appears at its path only after all of that: export (`fxprune.backends.onnx_export`), `onnx.checker`, then the
same outputs as the module's in eval mode, on the example inputs and, where the batch size is dynamic, on one sample
more. Weights keep their names of the `state_dict` unless the exporter folds them away (BatchNorm after a convolution);
above 1.5 GiB, safely under the 2 GB that one file can hold, they go to a second file beside it.

float16 works; for bfloat16 ONNX Runtime lacks CPU kernels of most operations (convolution among them), so such a module
can only be written with `verify=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.backends.atomic import companion_name, replacing
from fxprune.backends.base import Artifact, Runner, TensorSpec, measure_module
from fxprune.backends.eager import EagerRunner
from fxprune.backends.examples import batch_size_of, cloned, resize_batch
from fxprune.backends.measure import DEFAULT_TIMING, Latency, Timing
from fxprune.backends.onnx_export import Exported, export_program
from fxprune.backends.onnx_simplify import simplified
from fxprune.backends.parity import compare_outputs
from fxprune.backends.registry import missing
from fxprune.backends.session import INSTALL, open_session
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs

EXTERNAL_BYTES = 1536 * 2**20
"""Weights beyond this many bytes go to a second file: protocol buffers end at 2 GiB."""

OpenRunner = Callable[[Path], Runner]
"""Opens the file that was written, to compare what it computes."""


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """Writes ONNX files; runs them with ONNX Runtime on the CPU."""

    name: str = "onnx"

    def available(self) -> str | None:
        """None if `onnx` and `onnxscript` are installed, else what to install; comparing needs `onnxruntime` too."""
        return missing(("onnx", "onnxscript"), install=INSTALL)

    def lower(
        self,
        module: nn.Module,
        path: str | Path,
        *,
        example_inputs: Inputs,
        dynamic_batch: bool = True,
        verify: bool = True,
        tolerance: float | None = None,
        opset: int | None = None,
        simplify: bool = False,
    ) -> Artifact:
        """Write `module` as an ONNX file; see `write_onnx`."""
        return write_onnx(
            module,
            Path(path),
            example_inputs,
            backend=self.name,
            open_runner=open_session if verify else None,
            dynamic_batch=dynamic_batch,
            tolerance=tolerance,
            opset=opset,
            simplify=simplify,
        )

    def load(self, path: str | Path, *, threads: int | None = None) -> Runner:
        """Open an ONNX file with ONNX Runtime on the CPU.

        Raises:
            BackendError: the file is not there, is no model, or needs what ONNX Runtime does not have.
        """
        return open_session(Path(path), threads=threads)

    @contextmanager
    def prepared(self, module: nn.Module, *, example_inputs: Inputs, **options: Any) -> Iterator[Runner]:
        """`module` as an ONNX file of fixed batch size, opened on the CPU; options are those of `lower`."""
        with TemporaryDirectory(prefix="fxprune-") as folder:
            path = Path(folder) / "model.onnx"
            self.lower(module, path, example_inputs=example_inputs, **{"dynamic_batch": False, **options})
            yield open_session(path, shared=True)

    def measure(
        self, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING, **options: Any
    ) -> Latency:
        """Latency of `module` through ONNX Runtime on the CPU, with as many threads as PyTorch is set to."""
        return measure_module(self, module, example_inputs=example_inputs, timing=timing, **options)


def write_onnx(
    module: nn.Module,
    path: Path,
    example_inputs: Inputs,
    *,
    backend: str,
    open_runner: OpenRunner | None,
    dynamic_batch: bool,
    tolerance: float | None,
    opset: int | None,
    simplify: bool = False,
) -> Artifact:
    """Export `module` in eval mode to `path`, whole or not at all; the module stays as it is.

    Args:
        module: what to export; its training flags are restored.
        path: the file to write, in a folder that exists. A former file is replaced at the very end.
        example_inputs: positional and keyword arguments to trace and compare with.
        backend: name of the backend, for the result.
        open_runner: opens the written file to compare it with the module; None leaves that out.
        dynamic_batch: leave the batch size open where possible; a note of the result says where it was not.
        tolerance: largest relative error of an output; None for the dtype's default (`parity.TOLERANCES`).
        opset: version of the operator set; None for the exporter's default.
        simplify: have onnxsim simplify the graph (`fxprune.backends.onnx_simplify`) before it is compared.

    Raises:
        BackendError: a package is missing, the exporter cannot handle the module, or the result cannot be loaded.
        VerificationError: the file computes something else than the module.
    """
    require_packages(verify=open_runner is not None)
    with evaluating(module), replacing(path) as staged:
        exported = export_program(module, example_inputs, dynamic_batch=dynamic_batch, opset=opset)
        model, notes = exported.program.model, exported.notes
        if simplify:
            model, note = simplified(model)
            notes = (*notes, note)
        save_model(model, staged)
        error = None
        if open_runner is not None:
            sizes = _batch_sizes(example_inputs, exported)
            error = largest_error(module, open_runner(staged), example_inputs, sizes, tolerance, path)
        size = sum(file.stat().st_size for file in staged.parent.iterdir())
    graph = model.graph
    return Artifact(
        path=path,
        backend=backend,
        opset=exported.opset,
        inputs=tuple(map(_spec, graph.inputs)),
        outputs=tuple(map(_spec, graph.outputs)),
        largest_relative_error=error,
        size_bytes=size,
        notes=notes,
    )


def require_packages(*, verify: bool) -> None:
    """Refuse before the long work rather than after it."""
    reason = missing(("onnx", "onnxscript"), install=INSTALL)
    if reason is None and verify:
        reason = missing(("onnxruntime",), install=f"{INSTALL}, or pass verify=False to write without comparing")
    if reason is not None:
        raise BackendError(reason)


def save_model(model: Any, path: Path) -> None:
    """Write an `onnx_ir.Model` to `path`, large weights beside it, and check it.

    Raises:
        BackendError: `onnx.checker` refuses it.
    """
    import onnx
    import onnx_ir

    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    onnx_ir.save(model, path, external_data=companion_name(path) if size > EXTERNAL_BYTES else None)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        message = " ".join(str(error).split())
        raise BackendError(f"the exported model is refused by onnx.checker: {message}") from error


def _batch_sizes(inputs: Inputs, exported: Exported) -> tuple[int, ...]:
    """Batch sizes to compare at: that of the example inputs and, where it may change, one more."""
    size = batch_size_of(inputs) or 0
    return (size, size + 1) if exported.dynamic_batch else (size,)


def largest_error(
    module: nn.Module,
    runner: Runner,
    inputs: Inputs,
    sizes: tuple[int, ...],
    tolerance: float | None,
    path: Path,
) -> float:
    """Largest relative error between `module`, in eval mode, and `runner` over all outputs and batch sizes.

    Raises:
        VerificationError: it is more than the tolerance, or an output differs in shape or type.
    """
    errors = []
    for size in sizes:
        resized = resize_batch(inputs, size)
        reference = _outputs(EagerRunner(module), resized)
        names = [f"output {index}" for index in range(len(reference))]
        actual = _outputs(runner, resized)
        names = list(getattr(runner, "output_names", names))
        where = f"{path} with {size} samples"
        errors.append(compare_outputs(reference, actual, names=names, tolerance=tolerance, where=where))
    return max(errors)


def _outputs(runner: Runner, inputs: Inputs) -> list[Tensor]:
    """Outputs for a copy of the inputs, which a module may write into."""
    args, kwargs = cloned(inputs)
    return runner.run(*args, **kwargs)


def _spec(value: Any) -> TensorSpec:
    """Name, dtype and shape of a graph's input or output."""
    shape = () if value.shape is None else value.shape
    sizes = tuple(size if isinstance(size, int) else str(size.value or "?") for size in shape)
    return TensorSpec(value.name, str(_torch_name(value.dtype)), sizes)


def _torch_name(dtype: Any) -> str:
    """ONNX's name of a dtype (`FLOAT`) as PyTorch's (`float32`)."""
    name = str(dtype.name).lower()
    name = {"float": "float32", "double": "float64"}.get(name, name)
    assert hasattr(torch, name), f"unknown dtype {dtype}"
    return name
