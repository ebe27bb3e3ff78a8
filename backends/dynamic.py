"""A dynamic batch dimension: whether a module has one, and how `torch.export` is told.

A batch of one is traced as a batch of two, since code often treats a size of one specially.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.export import Dim, ShapesCollection

from fxprune.backends.eager import EagerRunner
from fxprune.backends.examples import batch_size_of, batch_tensors, cloned, resize_batch
from fxprune.inputs import Inputs

BATCH = "batch"
DEPENDS = "the module's computation depends on its value"


def why_fixed(module: nn.Module, inputs: Inputs) -> str | None:
    """Why the batch size cannot be dynamic; None if the module, in eval mode, runs with another one."""
    size = batch_size_of(inputs)
    if not size:
        return "no input has a batch dimension"
    try:
        args, kwargs = cloned(resize_batch(inputs, size + 1))
        EagerRunner(module).run(*args, **kwargs)
    except Exception as error:
        # Any exception of the user's own code says the same: another batch size does not work.
        lines = filter(None, map(str.strip, str(error).splitlines()))
        return f"the module does not run with {size + 1} samples ({next(lines, type(error).__name__)})"
    return None


def traceable(inputs: Inputs) -> Inputs:
    """The inputs to trace a dynamic batch with: at least two samples."""
    return resize_batch(inputs, max(batch_size_of(inputs) or 2, 2))


def batch_shapes(module: nn.Module, inputs: Inputs) -> Any:
    """One shared dynamic dimension for all tensors that carry the batch, in the form of `torch.export`."""
    batch = Dim(BATCH)
    new_collection: Callable[..., Any] = ShapesCollection  # PyTorch leaves its methods without annotations
    shapes = new_collection()
    for tensor in batch_tensors(inputs):
        shapes[tensor] = {0: batch}
    return shapes.dynamic_shapes(module, *inputs)
