"""Random parameters and statistics, so that nothing hides behind an identity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Overwrite every floating-point parameter and buffer, each tied one once."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(drawn(name.rsplit(".", 1)[-1], tensor, generator))


def drawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Values that keep activations near unit size: variances and scales positive, weights by their fan-in."""
    shape = tensor.shape
    if name == "running_var" or (name == "weight" and tensor.dim() == 1):
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    scale = 1 / math.sqrt(math.prod(shape[1:])) if tensor.dim() > 1 else 0.4
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale
