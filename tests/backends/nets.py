"""Small modules that the backends' tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Convnet(nn.Module):
    """Convolution, BatchNorm with statistics that matter, pooling, linear: [batch, 3, 8, 8] to [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        nn.init.uniform_(self.norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.weight)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images)).relu().mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


class Nested(nn.Module):
    """Nested and keyword inputs, constants among them; nested outputs of three dtypes, a None among them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, tokens: Tensor, scales: list[Any], *, extra: dict[str, Tensor], twice: bool = True) -> Any:
        hidden = tokens * scales[0] * scales[1]
        logits = self.head(hidden) + extra["bias"] * extra["weights"].sum()
        return {
            "logits": logits * 2 if twice else logits,
            "hidden": (hidden, hidden > 0),
            "nothing": None,
            "best": logits.argmax(1),
        }


class Fixed(nn.Module):
    """Runs with two samples only."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(2, 12) * 2


class Branching(nn.Module):
    """Runs with any number of samples, and does something else with two."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2 if images.shape[0] == 2 else images * 3


class Unsupported(nn.Module):
    """An operation that ONNX does not have."""

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = torch.special.bessel_j0(images)
        return values
