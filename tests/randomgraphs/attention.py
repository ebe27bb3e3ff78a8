"""Attention in the ways in which it is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.images import Residual
from tests.randomgraphs.kinds import Image, Tokens
from tests.randomgraphs.registry import Draw, Made, block


@dataclass(frozen=True, slots=True)
class Style:
    """How an attention block is written."""

    heads: int
    groups: int
    size: int
    value_size: int
    explicit: bool
    repeat: str
    rotary: bool
    causal: bool

    @property
    def grouped(self) -> bool:
        """Whether several query heads share a key."""
        return self.groups < self.heads


def draw_style(draw: Draw, *, grouped: bool) -> Style:
    """A random way."""
    groups = draw.between(1, 3)
    heads = groups * draw.between(2, 3) if grouped else groups + 1
    size = draw.one((2, 4, 6))
    return Style(
        heads=heads,
        groups=groups if grouped else heads,
        size=size,
        value_size=draw.one((size, size, 3, 5)),
        explicit=draw.chance(),
        repeat=draw.one(("expand", "repeat_interleave", "enable_gqa")),
        rotary=draw.chance(0.3),
        causal=draw.chance(0.3),
    )


def attend(style: Style, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v on [batch, heads, length, size]."""
    if not style.explicit:
        gqa = style.grouped and style.repeat == "enable_gqa"
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=style.causal and bias is None, enable_gqa=gqa
        )
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(style.size)
    if bias is not None:
        scores = scores + bias
    if style.causal:
        future = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(dim=-1) @ value


def repeated(style: Style, x: Tensor) -> Tensor:
    """Each key/value group for all of its query heads."""
    times = style.heads // style.groups
    if times == 1 or (style.repeat == "enable_gqa" and not style.explicit):
        return x
    if style.repeat == "repeat_interleave":
        return x.repeat_interleave(times, dim=1)
    batch, groups, length, size = x.shape
    return x[:, :, None].expand(batch, groups, times, length, size).reshape(batch, groups * times, length, size)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: halves of the head dimension are pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class Attention(nn.Module):
    """Separate projections; grouped queries, rotary positions and a bias by head if the style says so."""

    def __init__(self, features: int, length: int, style: Style, *, bias_by_head: bool) -> None:
        super().__init__()
        self.style = style
        self.q = nn.Linear(features, style.heads * style.size)
        self.k = nn.Linear(features, style.groups * style.size, bias=False)
        self.v = nn.Linear(features, style.groups * style.value_size)
        self.o = nn.Linear(style.heads * style.value_size, features)
        self.position_bias = nn.Parameter(torch.zeros(style.heads, length, length)) if bias_by_head else None
        self.register_buffer("cosine", torch.zeros(length, style.size))
        self.register_buffer("sine", torch.zeros(length, style.size))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        batch, length, _ = x.shape
        style = self.style
        query = self.q(x).view(batch, length, style.heads, style.size).transpose(1, 2)
        key = self.k(x).view(batch, length, style.groups, style.size).transpose(1, 2)
        value = self.v(x).view(batch, length, style.groups, style.value_size).transpose(1, 2)
        if style.rotary:
            table = self.get_buffer("cosine"), self.get_buffer("sine")
            query, key = rotate(query, *table), rotate(key, *table)
        out = attend(style, query, repeated(style, key), repeated(style, value), self.position_bias)
        merged: Tensor = self.o(out.transpose(1, 2).reshape(batch, length, -1))
        return merged


@block(Tokens)
def attention(draw: Draw, tokens: Tokens) -> Made:
    """As many keys as queries."""
    inner = Attention(tokens.features, tokens.length, draw_style(draw, grouped=False), bias_by_head=draw.chance(0.4))
    return Residual(inner), tokens


@block(Tokens)
def grouped_query_attention(draw: Draw, tokens: Tokens) -> Made:
    """Several queries to a key."""
    inner = Attention(tokens.features, tokens.length, draw_style(draw, grouped=True), bias_by_head=draw.chance(0.2))
    norm = nn.LayerNorm(tokens.features)
    return Residual(nn.Sequential(norm, inner)), tokens


class FusedAttention(nn.Module):
    """One projection to queries, keys and values, taken apart in one of three ways."""

    def __init__(self, features: int, style: Style, apart: str) -> None:
        super().__init__()
        self.style = style
        self.apart = apart
        self.qkv = nn.Linear(features, 3 * style.heads * style.size)
        self.proj = nn.Linear(style.heads * style.size, features, bias=False)
        self.temperature = nn.Parameter(torch.zeros(style.heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        batch, length, _ = x.shape
        query, key, value = self.parts(self.qkv(x), batch, length)
        out = attend(self.style, query * self.temperature, key, value)
        merged: Tensor = self.proj(out.permute(0, 2, 1, 3).flatten(2))
        return merged

    def parts(self, fused: Tensor, batch: int, length: int) -> tuple[Tensor, ...]:
        """Queries, keys and values as [batch, heads, length, size]."""
        heads, size = self.style.heads, self.style.size
        if self.apart == "permute":  # timm
            return fused.reshape(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.apart == "by head":  # GPT-NeoX
            by_head = fused.view(batch, length, heads, 3 * size).transpose(1, 2)
            return by_head.chunk(3, dim=-1)
        thirds = fused.split(heads * size, dim=-1)  # GPT-2
        return tuple(each.view(batch, length, heads, size).transpose(1, 2) for each in thirds)


@block(Tokens)
def fused_attention(draw: Draw, tokens: Tokens) -> Made:
    """One projection for all three."""
    inner = FusedAttention(tokens.features, draw_style(draw, grouped=False), draw.one(("permute", "by head", "thirds")))
    return (Residual(inner) if draw.chance(0.7) else inner), tokens


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another."""

    def __init__(self, features: int, context: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.q = nn.Linear(features, style.heads * style.size)
        self.kv = nn.Linear(context, 2 * style.heads * style.size)
        self.o = nn.Linear(style.heads * style.size, features)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """X plus what it finds in the context."""
        heads = self.style.heads
        query = self.q(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        key, value = self.kv(context).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        out = attend(self.style, query, key, value)
        merged: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return x + merged


@block(Tokens, Tokens)
def cross_attention(draw: Draw, tokens: Tokens, context: Tokens) -> Made:
    """Between two sequences."""
    style = draw_style(draw, grouped=False)
    if style.causal:
        style = Style(style.heads, style.groups, style.size, style.value_size, False, style.repeat, False, False)
    return CrossAttention(tokens.features, context.features, style), tokens


class ChannelAttention(nn.Module):
    """Attention between channels (cross-covariance): the softmax is over head dimensions, which pins them."""

    def __init__(self, features: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * heads * size)
        self.out = nn.Linear(heads * size, features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 4, 1)
        weights = (F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT).softmax(-1)
        merged: Tensor = self.out((weights @ value).flatten(1, 2).mT)
        return merged


@block(Tokens)
def channel_attention(draw: Draw, tokens: Tokens) -> Made:
    """XCiT."""
    return ChannelAttention(tokens.features, draw.between(2, 4), draw.between(2, 5)), tokens


class ImageAttention(nn.Module):
    """Self-attention on an image, projections by 1 x 1 convolution, heads batched by bmm."""

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * heads * size, 1)
        self.out = nn.Conv2d(heads * size, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to the same."""
        batch, _, height, width = x.shape
        query, key, value = (
            each.flatten(0, 1) for each in self.qkv(x).reshape(batch, 3, self.heads, -1, height * width).unbind(1)
        )
        weights = torch.bmm(query.transpose(1, 2), key).softmax(-1)
        out = torch.bmm(value, weights.transpose(1, 2)).view(batch, -1, height, width)
        merged: Tensor = x + self.out(out)
        return merged


@block(Image)
def image_attention(draw: Draw, image: Image) -> Made | None:
    """Heads folded into the batch axis."""
    if image.height * image.width > 36:
        return None
    return ImageAttention(image.channels, draw.between(1, 3), draw.between(2, 4)), image
