"""Attention with positions: rotary in its spellings, ALiBi, tables of relative positions."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from tests.randomgraphs.attention import Style, attend, draw_style, repeated
from tests.randomgraphs.images import Residual
from tests.randomgraphs.kinds import Tokens
from tests.randomgraphs.registry import Draw, Made, block


def interleaved(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Neighbours are pairs, written with strided slices and a stack."""
    even, odd = x[..., ::2], x[..., 1::2]
    rotated = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * cosine.repeat_interleave(2, dim=-1) + rotated * sine.repeat_interleave(2, dim=-1)


def paired(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Neighbours are pairs, written with a factor of two that is taken apart."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
    return torch.stack(turned, dim=-1).flatten(-2)


def halved(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Halves are pairs, written with slices."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def partial(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Only as many dimensions as the table has are turned (GPT-NeoX)."""
    turned, passed = x[..., : 2 * cosine.shape[-1]], x[..., 2 * cosine.shape[-1] :]
    return torch.cat([halved(turned, cosine, sine), passed], dim=-1)


def complex_pairs(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Neighbours are complex numbers (Llama's own code)."""
    numbers = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(numbers * torch.complex(cosine, sine)).flatten(3)


TURNS = {"interleaved": interleaved, "paired": paired, "halved": halved, "partial": partial, "complex": complex_pairs}


class RotaryAttention(nn.Module):
    """Grouped or multi-query attention under rotary positions."""

    def __init__(self, tokens: Tokens, style: Style, turn: str, *, normed: bool) -> None:
        super().__init__()
        self.style = style
        self.turn = turn
        self.q = nn.Linear(tokens.features, style.heads * style.size, bias=False)
        self.kv = nn.Linear(tokens.features, style.groups * (style.size + style.value_size))
        self.o = nn.Linear(style.heads * style.value_size, tokens.features, bias=False)
        self.norm = nn.RMSNorm(style.size) if normed else nn.Identity()
        half = max(1, style.size // 4) if turn == "partial" else style.size // 2
        self.register_buffer("frequencies", torch.zeros(half))
        self.register_buffer("steps", torch.arange(tokens.length))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        style = self.style
        batch, length, _ = x.shape
        angles = self.get_buffer("steps")[:, None].to(x.dtype) * self.get_buffer("frequencies")[None]
        query = self.norm(self.q(x).view(batch, length, -1, style.size)).transpose(1, 2)
        sizes = [style.groups * style.size, style.groups * style.value_size]
        key, value = self.kv(x).split(sizes, dim=-1)
        key = self.norm(key.view(batch, length, -1, style.size)).transpose(1, 2)
        value = value.view(batch, length, -1, style.value_size).transpose(1, 2)
        turned = [TURNS[self.turn](each, angles.cos(), angles.sin()) for each in (query, key)]
        out = attend(style, turned[0], repeated(style, turned[1]), repeated(style, value))
        merged: Tensor = self.o(out.transpose(1, 2).reshape(batch, length, -1))
        return merged


@block(Tokens)
def rotary_attention(draw: Draw, tokens: Tokens) -> Made:
    """One spelling of five; one key for all queries, some, or all."""
    style = draw_style(draw, grouped=draw.chance(0.7))
    if draw.chance(0.3):
        style = replace(style, heads=draw.between(2, 4), groups=1)
    inner = RotaryAttention(tokens, style, draw.one(tuple(TURNS)), normed=draw.chance(0.3))
    return Residual(inner), tokens


class TurnedFeatures(nn.Module):
    """Rotary positions on features, without any attention."""

    def __init__(self, features: int, hidden: int, turn: str) -> None:
        super().__init__()
        self.up = nn.Linear(features, 2 * hidden)
        self.angles = nn.Parameter(torch.zeros(hidden))
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        """The projection, turned."""
        return TURNS[self.turn](self.up(x), self.angles.cos(), self.angles.sin())


@block(Tokens)
def turned_features(draw: Draw, tokens: Tokens) -> Made:
    """Pairs of features go together."""
    hidden = draw.between(2, 8)
    turn = draw.one(("interleaved", "paired", "halved"))
    return TurnedFeatures(tokens.features, hidden, turn), tokens.wide(2 * hidden)


class BiasedAttention(nn.Module):
    """A bias by head and distance: ALiBi's slopes, or a table that an index in a buffer reads (Swin, T5)."""

    def __init__(self, tokens: Tokens, style: Style, kind: str) -> None:
        super().__init__()
        self.style = style
        self.kind = kind
        self.qkv = nn.Linear(tokens.features, 3 * style.heads * style.size)
        self.o = nn.Linear(style.heads * style.size, tokens.features)
        distance = torch.arange(tokens.length)[:, None] - torch.arange(tokens.length)[None, :]
        self.register_buffer("distance", distance + tokens.length - 1 if kind != "alibi" else distance.abs())
        if kind == "alibi":
            self.register_buffer("slopes", torch.zeros(style.heads))
        elif kind == "embedding":
            self.table = nn.Embedding(2 * tokens.length - 1, style.heads)
        else:
            self.rows = nn.Parameter(torch.zeros(2 * tokens.length - 1, style.heads))

    def bias(self, dtype: torch.dtype) -> Tensor:
        """[heads, length, length]."""
        distance = self.get_buffer("distance")
        if self.kind == "alibi":
            return -self.get_buffer("slopes")[:, None, None] * distance.to(dtype)
        if self.kind == "embedding":
            looked_up: Tensor = self.table(distance)
            return looked_up.permute(2, 0, 1)
        length = distance.shape[0]
        return self.rows[distance.view(-1)].view(length, length, -1).permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        batch, length, _ = x.shape
        heads, size = self.style.heads, self.style.size
        query, key, value = self.qkv(x).reshape(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4)
        out = attend(self.style, query, key, value, self.bias(x.dtype).unsqueeze(0))
        merged: Tensor = self.o(out.transpose(1, 2).reshape(batch, length, heads * size))
        return merged


@block(Tokens)
def biased_attention(draw: Draw, tokens: Tokens) -> Made:
    """ALiBi or a table."""
    style = draw_style(draw, grouped=False)
    inner = BiasedAttention(tokens, style, draw.one(("alibi", "embedding", "rows")))
    return Residual(nn.Sequential(nn.LayerNorm(tokens.features), inner)), tokens


class ScaledCosine(nn.Module):
    """Cosine attention with a learned temperature for each head (Swin v2)."""

    def __init__(self, features: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * heads * size, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(heads, 1, 1))
        self.o = nn.Linear(heads * size, features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = nn.functional.normalize(query, dim=-1) @ nn.functional.normalize(key, dim=-1).transpose(-2, -1)
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        merged: Tensor = self.o(((scores * scale).softmax(-1) @ value).transpose(1, 2).flatten(2))
        return merged


@block(Tokens)
def scaled_cosine(draw: Draw, tokens: Tokens) -> Made:
    """Norms over the head dimension."""
    return ScaledCosine(tokens.features, draw.between(2, 4), draw.between(2, 5)), tokens
