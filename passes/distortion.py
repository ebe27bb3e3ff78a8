"""How much a cut changes what the model returns: without labels, without building the slim model.

    D = mean over the outputs of  sum (y' - y)^2 / sum (y - mean y)^2

where y' is what the original with the group silenced returns, its consumers' weights repaired. Distortions of small
independent changes add up, so that D is one unit for all groups.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.batches import Batch
from fxprune.passes.finite import NotFiniteError
from fxprune.passes.silence import SilencedModel

WORST = 1e30
"""The distortion of a cut with which outputs are no longer finite that were."""


class Distortion:
    """Measures against what the original returns for the same batches.

    Attributes:
        evaluations: how many times a cut was measured.
    """

    def __init__(self, model: SilencedModel, batches: Sequence[Batch]) -> None:
        """Run the original."""
        self.model, self.batches = model, batches
        self.evaluations = 0
        self._expected = [float_outputs(batch.run(model)) for batch in batches]
        self._energies = [_energy([each[at] for each in self._expected]) for at in range(len(self._expected[0]))]
        for batch, outputs in zip(batches, self._expected, strict=True):
            if any(bool(each.isnan().any()) for each in outputs):
                raise NotFiniteError(f"what the model returns for batch {batch.number} of data is nan", batch)

    def measure(self, kept: Mapping[str, Any], weights: Mapping[str, Tensor]) -> float:
        """Distortion with some groups silenced and some parameters replaced; `WORST` where outputs overflow."""
        self.evaluations += 1
        errors = [0.0] * len(self._energies)
        with self.model.silenced(kept), replaced(self.model, weights):
            for batch, expected in zip(self.batches, self._expected, strict=True):
                for at, (a, b) in enumerate(zip(float_outputs(batch.run(self.model)), expected, strict=True)):
                    errors[at] += float(torch.where(b.isfinite(), a.double() - b.double(), 0.0).square().sum())
        if not all(map(math.isfinite, errors)):
            return WORST
        shares = [error / energy for error, energy in zip(errors, self._energies, strict=True) if energy > 0]
        return sum(shares) / max(len(shares), 1)


def float_outputs(output: Any) -> list[Tensor]:
    """All floating-point tensors that a model returned."""
    return [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point()]


def _energy(tensors: Sequence[Tensor]) -> float:
    """Sum of squares around the common mean; what is infinite is meant to be (masked logits), and does not count."""
    count = sum(int(each.isfinite().sum()) for each in tensors)
    finite = [torch.where(each.isfinite(), each.double(), 0.0) for each in tensors]
    total = sum(float(each.sum()) for each in finite)
    return sum(float(each.square().sum()) for each in finite) - total**2 / max(count, 1)


@contextlib.contextmanager
def replaced(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Other memory behind some parameters and buffers of a module, for as long as the context lasts."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    former = {name: tensors[name].data for name in weights}
    try:
        for name, value in weights.items():
            tensors[name].data = value.to(tensors[name])
        yield
    finally:
        for name, value in former.items():
            tensors[name].data = value
