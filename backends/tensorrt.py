"""TensorRT as a backend: engines of the packages `tensorrt` and `tensorrt_rtx`, built from ONNX.

    module --export--> ONNX --types (precision=)--> ONNX --parse, build--> engine + header (fxprune.backends.engine_file)

The ONNX file is compared with the module before anything is built from it, and again in the precision asked for, by
ONNX Runtime; where the GPU that the engine is for is there, the engine itself is compared too. Where it is not, a note
of the artifact says that the engine has not been run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from fxprune.backends.atomic import replacing
from fxprune.backends.base import Artifact, Runner, measure_module
from fxprune.backends.engine_file import EngineInfo, write_engine
from fxprune.backends.examples import batch_size_of
from fxprune.backends.feeding import place_tensors
from fxprune.backends.measure import DEFAULT_TIMING, Latency, Timing
from fxprune.backends.onnx import largest_error, write_onnx
from fxprune.backends.onnx_export import INPUT_PATHS
from fxprune.backends.onnx_precision import HALF_PRECISIONS, convert_file
from fxprune.backends.parity import TOLERANCES
from fxprune.backends.registry import missing
from fxprune.backends.session import INSTALL as INSTALL_ONNX
from fxprune.backends.session import open_session
from fxprune.backends.tensorrt_build import BuildOptions, Built, build_engine
from fxprune.backends.tensorrt_package import Package, choose_capability, choose_package, current_capability
from fxprune.backends.tensorrt_profiles import Profile, choose_profiles, describe
from fxprune.backends.tensorrt_run import open_engine
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs
from fxprune.plan import Plan
from fxprune.version import __version__

PRECISIONS = ("fp32", "tf32", *HALF_PRECISIONS)
_TOLERANCES = {
    "tf32": 1e-2,  # 10 bits of mantissa, as float16, without its range
    "fp16": TOLERANCES[torch.float16],
    "bf16": TOLERANCES[torch.bfloat16],
}


@dataclass(frozen=True, slots=True)
class TensorRtBackend:
    """Builds TensorRT engines, for this machine's GPU or for another, and runs them."""

    name: str = "tensorrt"

    def available(self) -> str | None:
        """None if one of the packages and `onnx` and `onnxscript` are installed, else what to install."""
        try:
            choose_package()
        except BackendError as error:
            return str(error)
        return missing(("onnx", "onnxscript"), install=INSTALL_ONNX)

    def runnable(self) -> str | None:
        """None if engines can be run here, else what is missing."""
        reason = self.available()
        if reason is None and current_capability() is None:
            reason = "there is no GPU that PyTorch can use: engines can be built here, not run"
        return reason

    def lower(
        self,
        module: nn.Module,
        path: str | Path,
        *,
        example_inputs: Inputs,
        precision: str | None = None,
        compute_capability: str | None = None,
        profiles: Profile | Sequence[Profile] | None = None,
        dynamic_batch: bool = True,
        verify: bool = True,
        tolerance: float | None = None,
        opset: int | None = None,
        package: str | None = None,
        workspace: int | None = None,
        optimization_level: int | None = None,
        timing_cache: str | Path | None = None,
    ) -> Artifact:
        """Build an engine and write it to `path`, whole or not at all.

        Args:
            module: what to lower, in eval mode; it stays as it is.
            path: the file to write, in a folder that exists.
            example_inputs: positional and keyword arguments to trace and compare with.
            precision: `fp32`, `tf32` (float32 with products in TF32), `fp16` or `bf16`
                (`fxprune.backends.onnx_precision`), for modules in float32; inputs and outputs keep their types. None
                takes the module's own types, without TF32.
            compute_capability: of the GPU to build for, such as `"8.9"`; None for the GPU here.
            profiles: name of a dynamic size -> (smallest, optimal, largest), such as `{"batch": (1, 8, 64)}`, or a
                sequence of such mappings. None takes 1 to the example's batch size.
            dynamic_batch: leave the batch size open where possible.
            verify: compare with the module.
            tolerance: largest relative error of an output; None for the precision's default.
            opset: version of the ONNX operator set; None for the exporter's default.
            package: `tensorrt` or `tensorrt_rtx`; None takes `tensorrt` where it and a GPU are there.
            workspace: most bytes of GPU memory that a layer may use beside its tensors.
            optimization_level: 0 (builds fast) to 5 (runs fast).
            timing_cache: file to keep the times of kernels in between builds (`tensorrt` only).

        Raises:
            BackendError: a package is missing, there is no GPU and none is named, or the module cannot be exported,
                parsed (the message names operation, node and module) or built.
            VerificationError: the result computes something else than the module; nothing was written.
            KeyboardInterrupt: Ctrl-C cancelled the build; nothing was written.
        """
        chosen = choose_package(package)
        _check_precision(module, precision)
        options = BuildOptions(
            choose_capability(chosen, compute_capability),
            tf32=precision == "tf32",
            workspace=workspace,
            optimization_level=optimization_level,
            timing_cache=None if timing_cache is None else Path(timing_cache),
        )
        job = _Job(self.name, module, Path(path), example_inputs, chosen, options, precision, verify, tolerance)
        return job.run(profiles, dynamic_batch=dynamic_batch, opset=opset)

    def load(self, path: str | Path) -> Runner:
        """Open an engine file that `lower` wrote, on the current GPU.

        Raises:
            BackendError: it is damaged, foreign, or of another TensorRT or GPU; the message says which.
        """
        return open_engine(Path(path))

    @contextmanager
    def prepared(self, module: nn.Module, *, example_inputs: Inputs, **options: Any) -> Iterator[Runner]:
        """`module` as an engine of fixed batch size for the GPU here; options are those of `lower`."""
        reason = self.runnable()
        if reason is not None:
            raise BackendError(f"backend 'tensorrt' cannot run anything here: {reason}")
        with TemporaryDirectory(prefix="fxprune-") as folder:
            path = Path(folder) / "model.engine"
            self.lower(module, path, example_inputs=example_inputs, **{"dynamic_batch": False, **options})
            yield open_engine(path)

    def measure(
        self, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING, **options: Any
    ) -> Latency:
        """Latency of `module` as an engine, between CUDA events."""
        return measure_module(self, module, example_inputs=example_inputs, timing=timing, **options)


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `lower`: what it was given, and its steps."""

    backend: str
    module: nn.Module
    path: Path
    example_inputs: Inputs
    package: Package
    options: BuildOptions
    precision: str | None
    verify: bool
    tolerance: float | None

    def run(self, profiles: Profile | Sequence[Profile] | None, *, dynamic_batch: bool, opset: int | None) -> Artifact:
        """Export, convert, build, check, write."""
        with TemporaryDirectory(prefix="fxprune-") as folder, replacing(self.path) as staged:
            exported = write_onnx(
                self.module,
                Path(folder) / "model.onnx",
                self.example_inputs,
                backend=self.backend,
                open_runner=open_session if self.verify else None,
                dynamic_batch=dynamic_batch,
                tolerance=self.tolerance,
                opset=opset,
            )
            source, error, notes = self._in_precision(exported)
            places = _places(source)
            chosen = choose_profiles(exported.inputs, self._shapes(exported, places), profiles)
            built = build_engine(self.package, source, exported.inputs, chosen, self.options)
            info = self._describe(exported, places, chosen, built)
            write_engine(staged, info, built.engine)
            error, run_note = self._run_engine(staged, error)
            size = staged.stat().st_size
        return Artifact(
            path=self.path,
            backend=self.backend,
            opset=exported.opset,
            inputs=exported.inputs,
            outputs=exported.outputs,
            largest_relative_error=error,
            size_bytes=size,
            notes=(*exported.notes, *notes, *_said(profiles, chosen), *built.warnings, *run_note),
        )

    def _in_precision(self, exported: Artifact) -> tuple[Path, float | None, tuple[str, ...]]:
        """The ONNX file to build from, its error, and what of that was not compared."""
        error = exported.largest_relative_error
        if self.precision is None or self.precision not in HALF_PRECISIONS:
            return exported.path, error, ()
        source = exported.path.with_name(f"{self.precision}.onnx")
        convert_file(exported.path, source, self.precision)
        if not self.verify:
            return source, error, ()
        if self.precision == "bf16":
            return source, error, ("compared in float32: ONNX Runtime has no bfloat16 on the CPU",)
        with evaluating(self.module):
            sizes = (batch_size_of(self.example_inputs) or 0,)
            found = largest_error(
                self.module, open_session(source), self.example_inputs, sizes, self._allowed(), self.path
            )
        return source, found, ()

    def _run_engine(self, staged: Path, error: float | None) -> tuple[float | None, tuple[str, ...]]:
        """The engine's own error where it can run here, or else a note that it was not run."""
        if not self.verify:
            return error, ()
        if current_capability() != self.options.capability:
            wanted = self.options.capability
            return error, (f"the engine was not run, only the ONNX file it is built from: no GPU of {wanted} is here",)
        with evaluating(self.module):
            sizes = (batch_size_of(self.example_inputs) or 0,)
            found = largest_error(
                self.module, open_engine(staged), self.example_inputs, sizes, self._allowed(), self.path
            )
        return found, ()

    def _allowed(self) -> float | None:
        return _TOLERANCES.get(self.precision or "") if self.tolerance is None else self.tolerance

    def _shapes(self, exported: Artifact, places: dict[str, str]) -> dict[str, tuple[int, ...]]:
        """Shape of the example of each input."""
        taken = {spec.name: str(spec) for spec in exported.inputs}
        return {
            name: tuple(tensor.shape) for name, tensor in place_tensors(taken, places, *self.example_inputs).items()
        }

    def _describe(
        self, exported: Artifact, places: dict[str, str], profiles: tuple[Profile, ...], built: Built
    ) -> EngineInfo:
        """The engine's header."""
        plan = getattr(self.module, "plan", None)
        text = plan.to_json() if isinstance(plan, Plan) else None
        return EngineInfo(
            package=self.package.name,
            package_version=self.package.version,
            compute_capability=self.options.capability,
            precision=self.precision,
            opset=exported.opset,
            inputs=exported.inputs,
            outputs=exported.outputs,
            profiles=profiles,
            places=places,
            network_layers=built.network_layers,
            engine_layers=built.engine_layers,
            sha256=hashlib.sha256(built.engine).hexdigest(),
            size_bytes=built.engine.nbytes,
            fxprune_version=__version__,
            plan_digest=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
        )


def _said(wanted: object, chosen: Sequence[Profile]) -> tuple[str, ...]:
    """A note on the sizes that the engine takes, where the user did not say them."""
    return tuple(f"built for {describe(each)}: other sizes need profiles=" for each in chosen if wanted is None)


def _check_precision(module: nn.Module, precision: str | None) -> None:
    """Refuse names that are none, and modules whose own types decide."""
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise BackendError(f"precision={precision!r} is none: pass {', '.join(map(repr, PRECISIONS))}, or None")
    tensors = (*module.parameters(), *module.buffers())
    odd = {each.dtype for each in tensors if each.is_floating_point()} - {torch.float32}
    if odd:
        raise BackendError(
            f"precision={precision!r} is for modules in float32, and this one has {', '.join(map(str, sorted(odd, key=str)))}: "
            "leave it out to keep the module's types, or convert the module with .float()"
        )


def _places(source: Path) -> dict[str, str]:
    """Where in the module's arguments each input of an ONNX file belongs."""
    import onnx

    properties = onnx.load(str(source), load_external_data=False).metadata_props
    found: dict[str, str] = json.loads(next((each.value for each in properties if each.key == INPUT_PATHS), "{}"))
    return found
