"""Small networks for the tests of latency."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.bn1(self.conv1(x)).relu()
        out: Tensor = (x + self.bn2(self.conv2(inside))).relu()
        return out


class Residual(nn.Module):
    """A stem, three alike blocks, a classifier."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


class Joined(nn.Module):
    """Two branches, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 32, 1)
        self.right = nn.Conv2d(3, 48, 1)
        self.both = nn.Conv2d(80, 64, 1)
        self.last = nn.Conv2d(64, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.both(torch.cat([self.left(x), self.right(x)], 1)).relu())
        return out


class Attention(nn.Module):
    """One layer of self-attention with heads."""

    def __init__(self, heads: int = 4, size: int = 16) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv = nn.Linear(32, 3 * heads * size)
        self.out = nn.Linear(heads * size, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (each.view(*x.shape[:2], self.heads, self.size).transpose(1, 2) for each in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


IMAGES = torch.zeros(2, 3, 8, 8)
TOKENS = torch.zeros(2, 6, 32)
