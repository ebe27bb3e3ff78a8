"""Engines at work: torch CUDA tensors in and out by address, on the current stream.

Each bound call has an execution context of its own, with the first optimisation profile that its inputs fit. TensorRT
is asked for the shapes of outputs before anything runs, and PyTorch allocates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxprune.backends.base import TensorSpec
from fxprune.backends.engine_file import EngineInfo, read_engine, read_info, refuse_foreign
from fxprune.backends.feeding import place_tensors
from fxprune.backends.machine import describe_device, versions_of
from fxprune.backends.measure import Call, Clock, cuda_clock
from fxprune.backends.tensorrt_package import Package, choose_package, current_capability
from fxprune.backends.tensorrt_profiles import fitting_profile
from fxprune.backends.tensorrt_watch import Log, make_logger
from fxprune.errors import BackendError


@dataclass(frozen=True, slots=True)
class TensorRtRunner:
    """An engine on a GPU, with all that has to live as long as it.

    Attributes:
        info: what the file says of it.
        engine: TensorRT's own object.
        torch_device: the GPU.
        log: what TensorRT reports.
        kept: runtime and logger, which TensorRT does not keep alive.
    """

    info: EngineInfo
    engine: Any
    torch_device: torch.device
    log: Log
    kept: tuple[Any, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(spec.name for spec in self.info.outputs)

    @property
    def device(self) -> str:
        """The GPU's name."""
        return describe_device(self.torch_device)

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python, PyTorch and TensorRT."""
        return {**versions_of("torch"), self.info.package: self.info.package_version}

    @property
    def clock(self) -> Clock:
        """Time between CUDA events."""
        return cuda_clock(self.torch_device)

    @property
    def activation_bytes(self) -> int:
        """GPU memory that one execution context takes beside weights, inputs and outputs."""
        return int(self.engine.device_memory_size_v2)

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        """A call that queues the engine's work on the current stream and returns its outputs, the same tensors each time.

        Raises:
            BackendError: an input is missing, unknown, of the wrong dtype, or of a shape that no profile takes.
        """
        feeds = self._feeds(inputs, kwinputs)
        shapes = {name: tuple(tensor.shape) for name, tensor in feeds.items()}
        profile = fitting_profile(self.info.profiles, self.info.inputs, shapes)
        context = self.engine.create_execution_context()
        if context is None:
            raise BackendError(f"TensorRT cannot run the engine: {self.log.why()}")
        stream = torch.cuda.current_stream(self.torch_device).cuda_stream
        context.set_optimization_profile_async(profile, stream)
        for name, tensor in feeds.items():
            context.set_input_shape(name, shapes[name])
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = self._outputs(context)

        def call() -> list[Tensor]:
            assert feeds is not None  # the context holds addresses only, so the tensors have to live as long as it
            stream = torch.cuda.current_stream(self.torch_device).cuda_stream
            if not context.execute_async_v3(stream):
                raise BackendError(f"TensorRT failed: {self.log.why()}")
            return outputs

        return call

    def run(self, *inputs: Any, **kwinputs: Any) -> list[Tensor]:
        """The outputs as tensors on the GPU.

        Raises:
            BackendError: the inputs do not fit, or TensorRT fails on them.
        """
        outputs: Any = self.bind(*inputs, **kwinputs)()
        torch.cuda.synchronize(self.torch_device)
        return list(outputs)

    def layers(self) -> str:
        """What the engine's inspector says of every layer, as JSON."""
        trt = choose_package(self.info.package).module
        inspector = self.engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _feeds(self, inputs: tuple[Any, ...], kwinputs: dict[str, Any]) -> dict[str, Tensor]:
        """Contiguous tensors by input name, where TensorRT reads them: sizes that it computes with on the CPU."""
        specs = {spec.name: spec for spec in self.info.inputs}
        taken = {name: str(spec).partition(": ")[2] for name, spec in specs.items()}
        placed = place_tensors(taken, self.info.places, inputs, kwinputs)
        return {name: self._fitting(tensor, specs[name]) for name, tensor in placed.items()}

    def _fitting(self, tensor: Tensor, spec: TensorSpec) -> Tensor:
        if tensor.dtype != _dtype(spec):
            raise BackendError(f"input {spec.name!r} is {tensor.dtype}, the engine wants torch.{spec.dtype}")
        on_host = self.engine.get_tensor_location(spec.name).name == "HOST"
        return tensor.to("cpu" if on_host else self.torch_device).contiguous()

    def _outputs(self, context: Any) -> list[Tensor]:
        """Tensors for the outputs, at whose addresses the context will write."""
        missing = context.infer_shapes()
        outputs = []
        for spec in self.info.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            if missing or any(size < 0 for size in shape):
                raise BackendError(f"the shape {list(shape)} of output {spec.name!r} depends on values of the inputs")
            outputs.append(torch.empty(shape, dtype=_dtype(spec), device=self.torch_device))
            context.set_tensor_address(spec.name, outputs[-1].data_ptr())
        return outputs


def open_engine(path: Path) -> TensorRtRunner:
    """Open an engine file on the current GPU; its bytes reach TensorRT only when they are known to be meant for it.

    Raises:
        BackendError: it is damaged, was built with another version or for another GPU, or TensorRT is not installed.
    """
    info = read_info(path)
    package = choose_package(info.package)
    refuse_foreign(path, info, version=package.version, capability=current_capability())
    info, engine = read_engine(path)
    return _opened(package, info, engine, path)


def _opened(package: Package, info: EngineInfo, engine: bytes, path: Path) -> TensorRtRunner:
    log = Log()
    logger = make_logger(package, log)
    runtime = package.module.Runtime(logger)
    opened = runtime.deserialize_cuda_engine(engine)
    if opened is None:
        raise BackendError(f"{package.name} cannot open {path}: {log.why()}")
    device = torch.device("cuda", torch.cuda.current_device())
    return TensorRtRunner(info, opened, device, log, (runtime, logger))


def _dtype(spec: TensorSpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype
