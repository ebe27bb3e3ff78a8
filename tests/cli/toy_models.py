"""Small models that tests name on the command line."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

READY = nn.Linear(4, 2)
NUMBER = 3


class Network(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                first=nn.Conv2d(3, width, 3, padding=1),
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
                second=nn.Conv2d(width, 2 * width, 3, padding=1),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Linear(2 * width, classes),
            )
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def network(width: int = 16, classes: int = 10) -> Network:
    return Network(width, classes)


def not_a_model() -> str:
    return "text"


def broken() -> nn.Module:
    raise ValueError("no such variant")


def batches() -> list[torch.Tensor]:
    return [torch.linspace(-1, step, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16) for step in range(1, 4)]


def loss(output: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def score(model: nn.Module) -> float:
    return -float(model(batches()[0]).square().mean())
