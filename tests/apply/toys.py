"""Small classes whose Python needs sizes in all the ways that models do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass
class Settings:
    width: int = 24
    heads: int = 6
    layers: int = 2


class Attention(nn.Module):
    """Attributes for heads and head dimensions; the scale is fixed when the module is made."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.amount, self.each = heads, width // heads
        self.factor = self.each**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.amount, self.each).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.factor).softmax(dim=-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(b, n, self.amount * self.each))
        return mixed


class Hardcoded(Attention):
    """The sizes stand in the code."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(self.amount * self.each, dim=-1)
        q, k, v = (t.view(-1, 5, 6, 4).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.factor).transpose(1, 2).flatten(2)
        mixed: Tensor = self.out(y)
        return mixed


class Checked(Attention):
    """A comparison of an attribute with a shape, and a size that only arithmetic with a shape gives."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        if c != self.width:
            raise ValueError("another width")
        y: Tensor = self.out(F.relu(self.qkv(x)).reshape(b, n, -1)[..., : self.width])
        return y


class Rescaled(nn.Module):
    """The kernel takes the scale from the width of a head, unless a flag says otherwise."""

    def __init__(self, width: int, heads: int, flag: bool) -> None:
        super().__init__()
        self.heads, self.each, self.scale = heads, width // heads, (width // heads) ** -0.5
        self.inner = width
        self.quick, self.unrelated = flag, True
        self.kernel = "any" if flag else "own"
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.each)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        if self.quick or self.kernel == "own":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class RecomputedScale(Attention):
    """The scale is computed anew from the attribute that says the size."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.amount, self.each).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(self.each)).softmax(dim=-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(b, n, -1))
        return mixed


class Parts(nn.Module):
    """Sizes in a tuple and a dictionary; one number that means two things."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (16, 32)
        self.more = {"left": 16, "steps": [16, 3]}
        self.length = 16  # of the sequence, by chance the same as a width
        self.first, self.second = nn.Linear(8, 48), nn.Linear(32, 4)
        self.third = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, self.length, 8)
        small, large = self.first(x).split(self.sizes, dim=-1)
        left = F.layer_norm(small.relu(), (self.more["left"],))  # type: ignore[arg-type]
        y: Tensor = self.third(left) + self.second(large.relu())
        return y


class Shared(nn.Module):
    """Layers that read one configuration at forward time."""

    class Layer(nn.Module):
        def __init__(self, settings: Settings) -> None:
            super().__init__()
            self.settings = settings
            self.up, self.down = nn.Linear(8, settings.width), nn.Linear(settings.width, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x).relu().view(x.shape[0], self.settings.width)
            z: Tensor = self.down(y)
            return x + z

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()
        self.blocks = nn.ModuleList([self.Layer(self.settings) for _ in range(self.settings.layers)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Tied(nn.Module):
    """An embedding tied to the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.inner = nn.Linear(16, 64)
        self.outer = nn.Linear(64, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("step", torch.zeros(()), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y: Tensor = self.head(x + self.outer(self.inner(x).relu()))
        return y


class Biased(nn.Module):
    """Attention whose biases, gathered from a table for each pair of positions, are kept between passes in eval mode."""

    def __init__(self, features: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.each = heads, features // heads
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.table = nn.Parameter(torch.randn(heads, length))
        self.indices = [abs(i - j) for i in range(length) for j in range(length)]
        self.cache: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> Biased:
        """Empties the cache."""
        if mode:
            self.cache = {}
        return super().train(mode)

    def biases(self) -> torch.Tensor:
        """From the table, or from the cache."""
        if self.training:
            return self.table[:, self.indices]
        if "biases" not in self.cache:
            self.cache["biases"] = self.table[:, self.indices].detach()
        return self.cache["biases"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, features] to the same."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, self.each).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) + self.biases().view(self.heads, length, length)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, self.heads * self.each)
        out: torch.Tensor = self.out(mixed)
        return out
