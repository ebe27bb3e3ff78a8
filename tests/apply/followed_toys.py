"""Small classes whose Python derives a size in a way that no attribute can say."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Attention(nn.Module):
    """What the others share; `attend` is theirs."""

    def __init__(self, width: int = 24, heads: int = 6) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)


class OuterWidth(Attention):
    """The inner width is taken for that of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """As in timm's beit, eva, gcvit, nest, twins."""
        B, N, C = x.shape  # noqa: N806 - as models spell it
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q = q * (C // self.num_heads) ** -0.5
        x = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        y: Tensor = self.out(x.transpose(1, 2).reshape(B, N, C))
        return y


def attend(x: Tensor, qkv: nn.Module, heads: int) -> Tensor:
    """As in torchvision's swin: a function of the library."""
    b, n, c = x.shape
    q, k, v = merge(qkv(x), b, n, heads, c).permute(2, 0, 3, 1, 4)
    y: Tensor = F.scaled_dot_product_attention(
        q,
        k,
        v,  # the kernel's own scale
    )
    return y.transpose(1, 2).reshape(b, n, c)


def merge(x: Tensor, b: int, n: int, heads: int, c: int) -> Tensor:
    """One more function on the way."""
    return x.reshape(b, n, 3, heads, c // heads)


class Free(Attention):
    """Calls stand in functions, one called by the other."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(attend(x, self.qkv, self.num_heads))
        return y


class Base(Attention):
    """A forward that is reached through `super()`, and a method."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        y: Tensor = self.out(self._mix(x, b, n, c))
        return y

    def _mix(self, x: Tensor, b: int, n: int, c: int) -> Tensor:
        q, k, v = self.__split(x).unflatten(-1, (3, self.num_heads, c // self.num_heads)).permute(2, 0, 3, 1, 4)
        y: Tensor = ((q @ k.transpose(-2, -1)).softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)
        return y

    def __split(self, x: Tensor) -> Tensor:
        y: Tensor = self.qkv(x)
        return y


class Chain(Base):
    """Calls forward and the method of its base."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2.0

    def _mix(self, x: Tensor, b: int, n: int, c: int) -> Tensor:
        return super()._mix(x, b, n, c) + 1.0


class Chunked(nn.Module):
    """Two parts that need not stay equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(8, 32), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).relu().chunk(2, dim=-1)
        y: Tensor = self.left(left) + self.right(right)
        return y


class OneForBoth(nn.Module):
    """One attribute says the dimensions of a head for queries and keys, and for values."""

    def __init__(self, width: int = 24, heads: int = 6) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.scaling = self.head_dim**-0.5
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k = self.q(x).view(shape).transpose(1, 2), self.k(x).view(*shape).transpose(1, 2)
        v = self.v(x).view(shape).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class Scaled(nn.Module):
    """The scale is computed from an attribute, a width, and by the kernel."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(layer(x)) for layer in (self.q, self.k, self.v))
        first = (q @ k.transpose(-2, -1) / math.sqrt(self.each)).softmax(dim=-1) @ v
        second = (q.shape[-1] ** -0.5 * (q @ k.transpose(-2, -1))).softmax(dim=-1) @ v
        third = F.scaled_dot_product_attention(q, k, v)
        y: Tensor = self.out((first + second + third).transpose(1, 2).flatten(2))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        y: Tensor = x.unflatten(-1, (self.heads, self.each)).transpose(1, 2)
        return y


def halved(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) * 0.5

    return call


class Decorated(OuterWidth):
    """A decorated forward."""

    @halved
    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape  # noqa: N806
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        y: Tensor = self.out((torch.tanh(q @ k.transpose(-2, -1)) @ v).transpose(1, 2).reshape(B, N, C))
        return y


def closed(power: float) -> type[Attention]:
    """A class whose forward is a closure."""

    class Closed(Attention):
        def forward(self, x: Tensor) -> Tensor:
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
            y: Tensor = self.out((torch.tanh(q @ k.transpose(-2, -1)) @ v).transpose(1, 2).reshape(b, n, c))
            return y * power

    return Closed


class Helped(OneForBoth):
    """A helper that is called for queries, keys and values alike."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._split(self.q(x)), self._split(self.k(x)), self._split(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        y: Tensor = x.view(*shape).transpose(1, 2)
        return y


class Twice(nn.Module):
    """One line that needs two numbers in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.ups = nn.ModuleList([nn.Linear(8, 24), nn.Linear(8, 24)])
        self.downs = nn.ModuleList([nn.Linear(24, 8), nn.Linear(24, 8)])

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(up(x).relu().reshape(-1, 24))
        return x


class Positions(nn.Module):
    """A table that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)
        self.positions, self.unrelated = torch.randn(5, 16), torch.randn(5, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.outer((self.inner(x) + self.positions).relu())
        return y


class Guarded(nn.Module):
    """Takes the width of its input for that of its parts, then compares another with an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.first, self.second, self.third = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        left, right = torch.split(self.first(x).relu(), [width, width], -1)
        if left.shape[-1] != self.width:
            raise ValueError("another width")
        y: Tensor = self.second(left) + self.third(right)
        return y
