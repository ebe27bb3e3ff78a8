"""ONNX Runtime sessions that take and give torch tensors.

Tensors are bound by address and come back by DLPack, so nothing is copied on the way where both sides are on one
device, and bfloat16, which NumPy does not have, works. `fxprune.backends.feeding` says which input a tensor goes to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fxprune.backends.feeding import place_tensors
from fxprune.backends.machine import describe_device, versions_of
from fxprune.backends.measure import Call, Clock, thread_clock, wall_clock
from fxprune.backends.onnx_export import INPUT_PATHS
from fxprune.backends.registry import require
from fxprune.errors import BackendError

INSTALL = "pip install 'fxprune[onnx]'"
PROVIDERS: Mapping[str, str] = MappingProxyType({"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"})

# Numbers of onnx.TensorProto.DataType, written down so that running a file does not need the package onnx.
_ELEMENT_TYPES: Mapping[torch.dtype, tuple[int, str]] = MappingProxyType(
    {
        torch.float32: (1, "float"),
        torch.uint8: (2, "uint8"),
        torch.int8: (3, "int8"),
        torch.int16: (5, "int16"),
        torch.int32: (6, "int32"),
        torch.int64: (7, "int64"),
        torch.bool: (9, "bool"),
        torch.float16: (10, "float16"),
        torch.float64: (11, "double"),
        torch.bfloat16: (16, "bfloat16"),
    }
)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeRunner:
    """A session: the runtime's own object, the device it is on and its number of threads."""

    session: Any
    torch_device: torch.device
    threads: int

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the file."""
        return tuple(output.name for output in self.session.get_outputs())

    @property
    def device(self) -> str:
        """The device's name, with the number of threads on a CPU."""
        return describe_device(self.torch_device, self.threads)

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python, PyTorch and ONNX Runtime."""
        return versions_of("torch", "onnxruntime", "onnxruntime-gpu")

    @property
    def clock(self) -> Clock:
        """The wall clock: a run returns when its outputs are there, on CUDA too."""
        return wall_clock

    @property
    def own_clock(self) -> Clock | None:
        """The thread's own time, where the session has no other: on a CPU, with one thread."""
        return thread_clock if self.torch_device.type == "cpu" and self.threads == 1 else None

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        """A call that runs the session on these inputs and returns its outputs as ONNX Runtime's values.

        Raises:
            BackendError: an input is missing, unknown or of the wrong dtype.
        """
        tensors = self._feeds(inputs, kwinputs)
        binding = self.session.io_binding()
        place = (self.torch_device.type, self.torch_device.index or 0)
        for name, tensor in tensors.items():
            number, _ = _ELEMENT_TYPES[tensor.dtype]
            binding.bind_input(name, *place, number, tuple(tensor.shape), tensor.data_ptr())
        names = self.output_names

        def call() -> object:
            assert tensors is not None  # the binding holds addresses only, so the tensors have to live as long as it
            for name in names:
                # Anew for each run: otherwise the runtime writes into the former run's outputs.
                binding.bind_output(name, *place)
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return binding.get_outputs()

        return call

    def run(self, *inputs: Any, **kwinputs: Any) -> list[Tensor]:
        """The outputs as tensors on the session's device.

        Raises:
            BackendError: the inputs do not fit, or the runtime fails on them.
        """
        call = self.bind(*inputs, **kwinputs)
        try:
            values: Any = call()
        except Exception as error:
            # The runtime's exceptions have no base class of their own.
            raise BackendError(f"ONNX Runtime failed: {_one_line(error)}") from error
        return [_tensor(value) for value in values]

    def _feeds(self, inputs: tuple[Any, ...], kwinputs: dict[str, Any]) -> dict[str, Tensor]:
        """Contiguous tensors on the session's device by input name."""
        expected = {item.name: item for item in self.session.get_inputs()}
        places = json.loads(self.session.get_modelmeta().custom_metadata_map.get(INPUT_PATHS, "{}"))
        taken = {name: f"{item.type} {list(item.shape)}" for name, item in expected.items()}
        placed = place_tensors(taken, places, inputs, kwinputs)
        return {
            name: _fitting(tensor, expected[name]).to(self.torch_device).contiguous() for name, tensor in placed.items()
        }


def open_session(
    path: Path, *, device: str = "cpu", threads: int | None = None, shared: bool = False
) -> OnnxRuntimeRunner:
    """Open an ONNX file with ONNX Runtime.

    Args:
        path: the file.
        device: `cpu`, `cuda` or `cuda:1`.
        threads: threads within an operation on the CPU; None takes as many as PyTorch is set to.
        shared: stop the session's threads from waiting actively after a run, as is fair beside other sessions.

    Raises:
        BackendError: ONNX Runtime or its CUDA provider is missing, or it cannot open the file.
    """
    runtime = require("onnxruntime", install=INSTALL)
    torch_device = torch.device(device)
    provider = _provider(runtime, torch_device)
    threads = torch.get_num_threads() if threads is None else threads
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if shared:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if not path.is_file():
        raise BackendError(f"there is no file {path}")
    try:
        session = runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:
        # The runtime's exceptions have no base class of their own.
        raise BackendError(_why_not_opened(error, path, torch_device)) from error
    if provider[0] not in session.get_providers():
        raise BackendError(
            f"ONNX Runtime could not start {provider[0]}: check that its CUDA and cuDNN libraries are there"
        )
    return OnnxRuntimeRunner(session, torch_device, threads)


def _provider(runtime: Any, device: torch.device) -> tuple[str, dict[str, int]]:
    """Name and options of the execution provider for `device`."""
    name = PROVIDERS.get(device.type)
    if name is None:
        raise BackendError(f"ONNX Runtime is used on {' and '.join(PROVIDERS)} only, not on {device}")
    if name not in runtime.get_available_providers():
        raise BackendError(f"this build of ONNX Runtime has no {name}: pip install onnxruntime-gpu")
    return name, {} if device.type == "cpu" else {"device_id": device.index or 0}


def _why_not_opened(error: Exception, path: Path, device: torch.device) -> str:
    """The runtime's message, with what to do where the cause is known."""
    message = f"ONNX Runtime cannot open {path.name}: {_one_line(error)}".replace(str(path), path.name).rstrip(".")
    if "bfloat16" in message:
        message += (
            f". It has no bfloat16 version of this operation on {device.type}: convert the module with .float() or "
            ".half(), or pass verify=False to write the file without running it"
        )
    return message


def _fitting(tensor: Tensor, expected: Any) -> Tensor:
    """`tensor`, if it has the dtype of the session's input `expected`."""
    _, name = _ELEMENT_TYPES.get(tensor.dtype, (0, str(tensor.dtype)))
    if expected.type != f"tensor({name})":
        raise BackendError(f"input {expected.name!r} is {tensor.dtype}, the file wants {expected.type}")
    return tensor


def _tensor(value: Any) -> Tensor:
    """A torch tensor that shares the memory of one of the runtime's values."""
    if hasattr(value, "__dlpack__"):
        shared: Tensor = torch.utils.dlpack.from_dlpack(value)
        return shared
    return torch.from_numpy(value.numpy())


def _one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())
