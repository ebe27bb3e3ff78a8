"""`fxprune.lower`: hand a module to a backend, by the backend's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fxprune.backends.base import Artifact
from fxprune.backends.examples import example_inputs_of
from fxprune.backends.registry import get_usable_backend
from fxprune.exclusive import EXCLUSIVE


def lower(
    module: nn.Module,
    to: str,
    path: str | Path,
    *,
    example_inputs: object = None,
    verify: bool = True,
    **options: Any,
) -> Artifact:
    """Write `module` as an artifact for another runtime, and check that it computes the same.

    The module itself stays as it is. The file appears at `path` complete and checked, or not at all.

    Args:
        module: what to lower, usually a slim module; its eval mode is what is written.
        to: name of the backend, such as `"onnx"`, `"onnxruntime"`, `"tensorrt"` or `"inductor"`.
        path: the file to write, in a folder that exists; a former file is replaced.
        example_inputs: what to trace and compare with: a tuple is positional, a dict keyword, a tensor one argument.
            The default is the module's own `example_inputs`, which every slim module has.
        verify: run the artifact and compare its outputs with the module's.
        options: the backend's own. For ONNX: `dynamic_batch=True`, `opset=None`, `tolerance=None` (largest relative
            error of an output, default by its dtype: 1e-3 for float32). For TensorRT also `precision`,
            `compute_capability`, `profiles` and more (`fxprune.backends.tensorrt.TensorRtBackend.lower`), for Inductor
            those of `fxprune.backends.inductor.InductorBackend.lower`.

    Returns:
        Path, inputs and outputs, the largest relative error seen, and notes on what the user should know.

    Raises:
        BackendError: there is no such backend, it lacks a package, or it cannot handle the module.
        InputError: there are no example inputs.
        VerificationError: the artifact computes something else than the module; nothing was written.

    Example:
        >>> import fxprune, torch  # doctest: +SKIP
        >>> artifact = fxprune.lower(slim, "onnx", "slim.onnx")  # doctest: +SKIP
        >>> artifact.dynamic_axes  # doctest: +SKIP
        {'x': {0: 'batch'}, 'output': {0: 'batch'}}
    """
    backend = get_usable_backend(to)
    inputs = example_inputs_of(module, given=example_inputs)
    with EXCLUSIVE:
        return backend.lower(module, path, example_inputs=inputs, verify=verify, **options)
