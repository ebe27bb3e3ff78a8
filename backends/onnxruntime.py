"""ONNX Runtime as a backend: an ONNX file together with the session that is to run it, on the CPU or on CUDA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from fxprune.backends.base import Artifact, Runner, measure_module
from fxprune.backends.measure import DEFAULT_TIMING, Latency, Timing
from fxprune.backends.onnx import write_onnx
from fxprune.backends.onnx_together import write_together
from fxprune.backends.registry import missing
from fxprune.backends.session import INSTALL, open_session
from fxprune.backends.together import Outcomes, prepared_each
from fxprune.errors import BackendError, FxpruneError
from fxprune.inputs import Inputs, device_of


@dataclass(frozen=True, slots=True)
class OnnxRuntimeBackend:
    """Runs modules with ONNX Runtime."""

    name: str = "onnxruntime"

    def available(self) -> str | None:
        """None if `onnx`, `onnxscript` and `onnxruntime` are installed, else what to install."""
        return missing(("onnx", "onnxscript", "onnxruntime"), install=INSTALL)

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
        device: str | None = None,
        threads: int | None = None,
        simplify: bool = False,
    ) -> Artifact:
        """Write `module` as an ONNX file that a session on `device` opens; see `write_onnx`.

        Args:
            module: what to export.
            path: the file to write.
            example_inputs: positional and keyword arguments to trace and compare with.
            dynamic_batch: leave the batch size open where possible.
            verify: run the session and compare it with the module.
            tolerance: largest relative error of an output; None for the dtype's default.
            opset: version of the operator set; None for the exporter's default.
            device: `cpu` or `cuda`, where the session is opened; None takes the module's.
            threads: threads of the session on the CPU; None takes as many as PyTorch is set to.
            simplify: have onnxsim simplify the graph before it is compared; `pip install 'fxprune[simplify]'`.

        Raises:
            BackendError: a package or provider is missing, or the module cannot be exported or opened.
            VerificationError: the session computes something else than the module.
        """
        opener = partial(open_session, device=device or str(device_of(module)), threads=threads)
        return write_onnx(
            module,
            Path(path),
            example_inputs,
            backend=self.name,
            open_runner=opener if verify else None,
            dynamic_batch=dynamic_batch,
            tolerance=tolerance,
            opset=opset,
            simplify=simplify,
        )

    def load(self, path: str | Path, *, device: str = "cpu", threads: int | None = None) -> Runner:
        """Open an ONNX file on `device`, with `threads` threads on the CPU (None: as many as PyTorch is set to).

        Raises:
            BackendError: a package or provider is missing, or the file is not there or cannot be opened.
        """
        return open_session(Path(path), device=device, threads=threads)

    @contextmanager
    def prepared(
        self,
        module: nn.Module,
        *,
        example_inputs: Inputs,
        device: str | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> Iterator[Runner]:
        """`module` in a session of fixed batch size; options are those of `lower`."""
        device = device or str(device_of(module))
        with TemporaryDirectory(prefix="fxprune-") as folder:
            path = Path(folder) / "model.onnx"
            options = {"dynamic_batch": False, **options}
            self.lower(module, path, example_inputs=example_inputs, device=device, threads=threads, **options)
            yield open_session(path, device=device, threads=threads, shared=True)

    @contextmanager
    def prepared_together(
        self,
        modules: Sequence[nn.Module],
        *,
        example_inputs: Sequence[Inputs],
        device: str | None = None,
        threads: int | None = None,
        opset: int | None = None,
        **options: Any,
    ) -> Iterator[Outcomes]:
        """Each module in a session of fixed batch size, exported all at once; one by one where that fails, or is to be verified.

        Args:
            modules: in eval mode, on one device.
            example_inputs: of each.
            device: as for `lower`.
            threads: as for `lower`.
            opset: as for `lower`.
            options: further ones of `prepared`.
        """
        one_by_one = prepared_each(
            self, modules, example_inputs=example_inputs, device=device, threads=threads, opset=opset, **options
        )
        if options != {"verify": False}:
            with one_by_one as found:
                yield found
            return
        with TemporaryDirectory(prefix="fxprune-") as folder, ExitStack() as stack:
            try:
                paths = write_together(modules, example_inputs, Path(folder), opset=opset)
            except BackendError:  # of one of them: which, and why, is told by exporting it by itself
                yield stack.enter_context(one_by_one)
                return
            yield [_opened(path, device or str(device_of(modules[0])), threads) for path in paths]

    def measure(
        self, module: nn.Module, *, example_inputs: Inputs, timing: Timing = DEFAULT_TIMING, **options: Any
    ) -> Latency:
        """Latency of `module` in a session on its device, with as many threads as PyTorch is set to."""
        return measure_module(self, module, example_inputs=example_inputs, timing=timing, **options)


def _opened(path: Path, device: str, threads: int | None) -> Runner | FxpruneError:
    """A session, or why there is none."""
    try:
        return open_session(path, device=device, threads=threads, shared=True)
    except BackendError as error:
        return error
