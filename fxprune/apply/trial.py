"""Trials: does the patched copy compute what the graph form computes, and if not, where does it first go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.apply.observe import Observation, observe
from fxprune.capture import structural_copy, without_cache
from fxprune.inputs import Inputs
from fxprune.passes.verify import TOLERANCE, relative_error
from fxprune.random_state import kept_random_state


def run_plainly(model: nn.Module, inputs: Inputs) -> list[Any]:
    """Flat outputs of a model in eval mode; the model is not touched."""
    shell = structural_copy(model).eval()
    without_cache(shell)
    args, kwargs = inputs
    with torch.no_grad(), kept_random_state():
        return tree_leaves(shell(*args, **kwargs))


def error_of(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    """Largest relative error over the outputs, as a multiple of what passes for rounding; infinite for other shapes."""
    worst = 0.0
    for a, b in zip_longest(_tensors(expected), _tensors(actual)):
        if a is None or b is None or a.shape != b.shape:
            return float("inf")
        tolerance = max(TOLERANCE.get(a.dtype, 0.0), TOLERANCE.get(b.dtype, 0.0))
        error = relative_error(a, b.to(a.device))
        worst = max(worst, error / tolerance if tolerance else (float("inf") if error else 0.0))
    return worst


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a patched copy.

    Attributes:
        observation: what the run showed.
        error: relative to what passes for rounding; infinite where it failed.
    """

    observation: Observation
    error: float

    @property
    def agrees(self) -> bool:
        """Whether the copy computes what the graph computes."""
        return self.error <= 1.0

    @property
    def progress(self) -> tuple[int, float]:
        """How far it came: module calls that returned, then how small the error is."""
        return self.observation.finished, -self.error


def try_out(model: nn.Module, inputs: Inputs, expected: Sequence[Any]) -> Trial:
    """Run a copy of `model` and compare."""
    seen = observe(model, inputs)
    return Trial(seen, float("inf") if seen.outputs is None else error_of(expected, seen.outputs))
