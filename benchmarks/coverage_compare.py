"""What the measurements of all libraries share: FLOPs, outputs, and the independent reference interpreter's verdict."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.coverage_models import Example

ORACLE_TOLERANCE = 1e-4
"""Relative error in float32 up to which the reference interpreter agrees; beyond it float64 decides."""

EXACT_TOLERANCE = 1e-5
"""The same in float64, where rounding is far below it, save for models that compute parts of themselves in float32."""


def count_flops(module: nn.Module, example: Example) -> int:
    """FLOPs that torch's counter sees in one forward pass, attention by its parts."""
    torch.backends.mha.set_fastpath_enabled(False)
    trained = [each for each in module.parameters() if each.requires_grad]
    for each in trained:  # the counter asks inputs of layers for their gradient functions, which parameters lack
        each.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            example.call(module)
    finally:
        for each in trained:
            each.requires_grad_(True)
    return int(counter.get_total_flops())


def without_cache(module: nn.Module) -> nn.Module:
    """A copy whose outputs hold no key/value cache.

    A courtesy to the other libraries, which stop at outputs that are no tensors; fxprune does without it.
    """
    copied = copy.deepcopy(module)
    for each in copied.modules():
        config = getattr(each, "config", None)
        if getattr(config, "use_cache", False) is True:
            config.use_cache = False  # type: ignore[union-attr]
    return copied


def outputs(module: nn.Module, example: Example) -> list[Tensor]:
    """All tensors of the output, the same random numbers every time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [leaf for leaf in tree_leaves(example.call(module)) if isinstance(leaf, Tensor)]


def largest_error(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Largest relative error over all outputs, max |a - b| / max |a|; infinite where their shapes differ."""
    if [each.shape for each in expected] != [each.shape for each in actual]:
        return float("inf")
    return max((_error(a, b) for a, b in zip(expected, actual, strict=True)), default=0.0)


def _error(expected: Tensor, actual: Tensor) -> float:
    if expected.numel() == 0:
        return 0.0
    a, b = expected.double(), actual.double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs())
    scale = torch.where(a.isfinite(), a.abs(), 0.0).max().clamp_min(torch.finfo(torch.float32).tiny)
    error = float((difference / scale).max())
    return float("inf") if error != error else error


def ask_oracle(graph: GraphModule, slices: Mapping[str, Any], module: nn.Module, example: Example) -> dict[str, Any]:
    """Whether a cut module computes what the reference interpreter makes of the original graph with these slices.

    Returns:
        `verdict` is "agrees", "differs", "cuts an output" or "no valid cut" (the interpreter has a meaning for the
        operations, but this cut has none: for example heads that lose different numbers of channels), or "undefined"
        (an operation that the interpreter does not define under a cut); `error` is the largest relative error and
        `dtype` what it was taken in.
    """
    try:
        error = _compare(graph, slices, module, example)
        if error <= ORACLE_TOLERANCE:
            return {"verdict": "agrees", "error": error, "dtype": "float32"}
        doubled = in_double(example, module)
        error = _compare(_double(graph), slices, doubled.model, doubled)
    except NotImplementedError as problem:
        return {"verdict": "undefined", "message": _text(problem)}
    except AssertionError as problem:
        output = str(problem).startswith("output") and "is cut" in str(problem)
        return {"verdict": "cuts an output" if output else "no valid cut", "message": _text(problem)}
    return {"verdict": "agrees" if error <= EXACT_TOLERANCE else "differs", "error": error, "dtype": "float64"}


def in_double(example: Example, module: nn.Module) -> Example:
    """A module in float64, with the example's inputs likewise."""
    return Example(
        _double(module), tree_map(lambda x: _double(x) if isinstance(x, Tensor) else x, example.inputs), None
    )


def _text(error: Exception) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", [])])[:300]


def _compare(graph: GraphModule, slices: Mapping[str, Any], module: nn.Module, example: Example) -> float:
    from tests.reference import masked_outputs

    args, kwargs = ((), example.inputs) if isinstance(example.inputs, dict) else (example.inputs, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = masked_outputs(graph, slices, args, kwargs)
    return largest_error(expected, outputs(module, example))


def _double(value: Any) -> Any:
    """A tensor, graph or module in float64; in graphs also where operations name a type."""
    from fxprune.passes import double

    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return double.in_double(value) if isinstance(value, GraphModule) else copy.deepcopy(value).double()
