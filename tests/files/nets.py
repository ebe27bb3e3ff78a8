"""Small models of many families, each with example inputs; all of them are built in a moment."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fxprune
from fxprune import SlimModule


class Convolutions(nn.Module):
    """BatchNorm, grouped and depthwise convolution, a residual, pooling, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(32, 32, 3, padding="same", groups=32)
        self.point = nn.Conv2d(32, 16, 1)
        self.act = nn.SiLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(images)))
        x = x + self.point(self.act(self.depthwise(self.grouped(x))))
        logits: Tensor = self.head(self.drop(self.pool(x).flatten(1)))
        return logits


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class Tied(nn.Module):
    """Embedding and output projection are one tensor, one block stands at two places, a mask is not part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.first = nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.Linear(48, 16))
        self.norm = nn.LayerNorm(16)
        self.second = self.first
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.linspace(1, 2, 16), persistent=False)
        self.register_buffer("shift", torch.linspace(0, 1, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * self.scale + self.shift
        x = self.norm(x + self.first(x))
        logits: Tensor = self.head(x + self.second(x))
        return logits


class Pair(NamedTuple):
    """What `Nested` returns beside a dictionary."""

    left: Tensor
    right: Tensor


class Nested(nn.Module):
    """Containers in and out, sizes computed as it runs, constants of infinity, a dtype and a device."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 40)
        self.down = nn.Linear(40, 8)

    def forward(self, parts: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
        x = parts["a"] + parts["b"] * scale
        x = self.down(torch.relu(self.up(x)))
        places = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        masked = x.masked_fill(places[None, :, None] > 2, float("-inf")).softmax(1)
        return {"pair": Pair(x, masked), "list": [x.reshape(x.shape[0] * x.shape[1], -1)], "none": None}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.norm = nn.RMSNorm(32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


def sequential() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), (torch.randn(2, 8),)


def in_bfloat16() -> tuple[nn.Module, Any]:
    return Attention().bfloat16(), (torch.randn(2, 5, 32).bfloat16(),)


def channels_last() -> tuple[nn.Module, Any]:
    model = Convolutions().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, (torch.randn(2, 3, 12, 12).to(memory_format=torch.channels_last),)


NETS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "sequential": sequential,
    "convolutions": lambda: (Convolutions(), (torch.randn(2, 3, 12, 12),)),
    "channels_last": channels_last,
    "recurrent": lambda: (Recurrent(), (torch.randn(2, 5, 8),)),
    "tied": lambda: (Tied(), (torch.randint(0, 20, (2, 7)),)),
    "attention": lambda: (Attention(), (torch.randn(2, 5, 32),)),
    "bfloat16": in_bfloat16,
    "nested": lambda: (
        Nested(),
        {"parts": {"a": torch.randn(2, 6, 8), "b": torch.randn(2, 6, 8)}, "scale": torch.randn(8)},
    ),
}


def make(name: str) -> tuple[nn.Module, Any]:
    """The model in eval mode and its example inputs, always the same."""
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    return model.eval(), inputs


@functools.cache
def _compiled(name: str) -> SlimModule:
    model, inputs = make(name)
    return fxprune.compile(model, {"params": "80%"}, example_inputs=inputs, progress=False)


def compiled(name: str) -> tuple[SlimModule, nn.Module, Any]:
    """A slim module of the caller's own, the model that it was made of, and example inputs."""
    return copy.deepcopy(_compiled(name)), *make(name)


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's output without gradients."""
    with torch.no_grad():
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
