"""Small models whose widths are coupled in one way each, and torchvision's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Convolutions around a sum, widths as arguments so that it can be built by hand at any size."""

    def __init__(self, stem: int = 12, inner: int = 20, tail: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.norm = nn.BatchNorm2d(stem)
        self.up = nn.Conv2d(stem, inner, 3, padding=1, bias=False)
        self.down = nn.Conv2d(inner, stem, 1)
        self.tail = nn.Conv2d(stem, tail, 3, stride=2)
        self.head = nn.Linear(tail, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu_()
        x = x + self.down(functional.gelu(self.up(x)))
        out: Tensor = self.head(self.tail(x).mean((2, 3)))
        return out


class Joined(nn.Module):
    """A concatenation of concatenations, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 3, padding=1)
        self.c = nn.Conv2d(16, 8, 3, padding=1)
        self.d = nn.ConvTranspose2d(24, 14, 2, stride=2)
        self.head = nn.Conv2d(14, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        x = torch.cat([x, functional.relu(self.c(x))], 1)
        out: Tensor = self.head(self.d(x)).flatten(1)
        return out


class Grouped(nn.Module):
    """Grouped and depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 24, 1)
        self.grouped = nn.Conv2d(24, 48, 3, groups=4)
        self.depthwise = nn.Conv2d(48, 48, 3, groups=48)
        self.project = nn.Conv2d(48, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.grouped(self.expand(x)).relu())).flatten(1)
        return out


class Attention(nn.Module):
    """Attention with grouped queries, written with the fused operation, and a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 24)
        self.q, self.k, self.v = nn.Linear(24, 48), nn.Linear(24, 16), nn.Linear(24, 16)
        self.o = nn.Linear(48, 24)
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 24)
        self.norm = nn.LayerNorm(24)
        self.unused = nn.Linear(7, 7)
        self.register_buffer("scale", torch.ones(24))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, steps, _ = x.shape
        q, k, v = (part(self.norm(x)).view(batch, steps, -1, 8).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, steps, -1))
        out: Tensor = (x + self.down(functional.silu(self.up(x)))) * self.scale
        return out.mean(1)


class Recurrent(nn.Module):
    """A recurrent layer between linear ones, and an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 12)
        self.rnn = nn.GRU(12, 8, batch_first=True)
        self.mix = nn.Parameter(torch.randn(8, 10))
        self.leave = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(self.enter(x))
        out: Tensor = self.leave(torch.einsum("bsi,ij->bsj", x, self.mix))
        return out


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (1, 3, 9, 9)),
    "joined": (Joined, (2, 3, 8, 8)),
    "grouped": (Grouped, (1, 3, 10, 10)),
    "attention": (Attention, (1, 7, 6)),
    "recurrent": (Recurrent, (2, 4, 5)),
}

REAL = (
    "mobilenet_v2",
    "resnext50_32x4d",
    "densenet121",
    "vit_b_16",
    "shufflenet_v2_x0_5",
    "swin_t",
    "convnext_tiny",
    "efficientnet_b0",
)
"""Models of torchvision that take long to capture."""


def slow(name: str) -> Any:
    """A parameter that is left out unless slow tests are asked for."""
    return pytest.param(name, marks=pytest.mark.slow)


def torchvision_model(name: str) -> nn.Module:
    """A model of torchvision without trained weights, or a small one of its kind that takes 64 x 64 pixels."""
    models = pytest.importorskip("torchvision.models")
    made: nn.Module
    if name == "small vit":
        made = models.VisionTransformer(64, 16, num_layers=2, num_heads=4, hidden_dim=48, mlp_dim=80, num_classes=7)
    elif name == "small densenet":
        made = models.DenseNet(growth_rate=6, block_config=(3, 4), num_init_features=10, num_classes=7)
    else:
        made = getattr(models, name)(weights=None)
    return made.eval()
