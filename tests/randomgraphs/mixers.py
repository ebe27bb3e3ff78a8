"""Attention beyond the usual: talking heads, linear attention, latents, additive scores, low-rank keys and values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.images import Residual
from tests.randomgraphs.kinds import Tokens, Vector
from tests.randomgraphs.registry import Draw, Made, block


class TalkingHeads(nn.Module):
    """Heads mixed by small matrices before and after the softmax (CaiT)."""

    def __init__(self, features: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * heads * size)
        self.before = nn.Linear(heads, heads)
        self.after = nn.Linear(heads, heads, bias=False)
        self.o = nn.Linear(heads * size, features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.before((query @ key.transpose(-2, -1)).permute(0, 2, 3, 1))
        weights = self.after(scores.permute(0, 3, 1, 2).softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        merged: Tensor = self.o((weights @ value).transpose(1, 2).flatten(2))
        return merged


@block(Tokens)
def talking_heads(draw: Draw, tokens: Tokens) -> Made:
    """Heads are channels of a linear layer."""
    return Residual(TalkingHeads(tokens.features, draw.between(2, 4), draw.between(2, 4))), tokens


class LinearAttention(nn.Module):
    """Keys meet values first; the kernel is positive, and a sum over keys normalises."""

    def __init__(self, features: int, heads: int, size: int, how: str) -> None:
        super().__init__()
        self.heads = heads
        self.how = how
        self.q = nn.Linear(features, heads * size)
        self.k = nn.Linear(features, heads * size)
        self.v = nn.Linear(features, heads * (size + 1))
        self.o = nn.Linear(heads * (size + 1), features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        query, key, value = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        query, key = F.elu(query) + 1, F.elu(key) + 1
        if self.how == "einsum":
            context = torch.einsum("bhnd,bhne->bhde", key, value)
            normal = 1 / (torch.einsum("bhnd,bhd->bhn", query, key.sum(2)) + 1e-3)
            out = torch.einsum("bhnd,bhde,bhn->bhne", query, context, normal)
        elif self.how == "appended":
            context = key.transpose(-1, -2) @ F.pad(value, (0, 1), value=1.0)
            raised = query @ context
            out = raised[..., :-1] / (raised[..., -1:] + 1e-3)
        else:
            normal = query @ key.sum(dim=-2, keepdim=True).transpose(-1, -2) + 1e-3
            out = (query @ (key.mT @ value)) / normal
        merged: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return merged


@block(Tokens)
def linear_attention(draw: Draw, tokens: Tokens) -> Made:
    """Three spellings."""
    how = draw.one(("einsum", "matmul", "appended"))
    return LinearAttention(tokens.features, draw.between(1, 3), draw.between(2, 5), how), tokens


class Latents(nn.Module):
    """Learned queries read a sequence (Perceiver, set transformers)."""

    def __init__(self, features: int, heads: int, size: int, count: int) -> None:
        super().__init__()
        self.heads = heads
        self.latents = nn.Parameter(torch.zeros(1, count, heads * size))
        self.kv = nn.Linear(features, 2 * heads * size)
        self.norm = nn.LayerNorm(heads * size)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to [batch, latents, heads · size]."""
        latents = self.latents.repeat(x.shape[0], 1, 1)
        key, value = self.kv(x).chunk(2, dim=-1)
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.norm(latents), key, value)
        )
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return latents + read


@block(Tokens)
def latents(draw: Draw, tokens: Tokens) -> Made:
    """A sequence of another length and width."""
    heads, size, count = draw.between(1, 3), draw.between(2, 5), draw.between(2, 4)
    return Latents(tokens.features, heads, size, count), Tokens(count, heads * size)


class AdditiveAttention(nn.Module):
    """Scores by a small network on sums of queries and keys (Bahdanau)."""

    def __init__(self, features: int, context: int, hidden: int) -> None:
        super().__init__()
        self.q = nn.Linear(features, hidden)
        self.k = nn.Linear(context, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.out = nn.Linear(context, features)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Each position of x reads the context."""
        scores = self.score(torch.tanh(self.q(x).unsqueeze(2) + self.k(context).unsqueeze(1))).squeeze(-1)
        merged: Tensor = self.out(torch.bmm(scores.softmax(-1), context))
        return x + merged


@block(Tokens, Tokens)
def additive_attention(draw: Draw, tokens: Tokens, context: Tokens) -> Made:
    """Between two sequences."""
    return AdditiveAttention(tokens.features, context.features, draw.width()), tokens


class LatentAttention(nn.Module):
    """Keys and values by way of a narrow, normed projection (DeepSeek's multi-head latent attention)."""

    def __init__(self, features: int, heads: int, size: int, turned: int, rank: int) -> None:
        super().__init__()
        self.sizes = (heads, size, turned)
        self.q = nn.Linear(features, heads * (size + turned), bias=False)
        self.down = nn.Linear(features, rank + turned, bias=False)
        self.norm = nn.RMSNorm(rank)
        self.up = nn.Linear(rank, heads * 2 * size, bias=False)
        self.o = nn.Linear(heads * size, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        heads, size, turned = self.sizes
        batch, length, _ = x.shape
        plain, positional = self.q(x).view(batch, length, heads, -1).transpose(1, 2).split([size, turned], dim=-1)
        narrow, shared = self.down(x).split([self.norm.normalized_shape[0], turned], dim=-1)
        wide = self.up(self.norm(narrow)).view(batch, length, heads, -1).transpose(1, 2)
        key, value = wide.split([size, size], dim=-1)
        shared = torch.cos(shared).unsqueeze(1).expand(-1, heads, -1, -1)
        query, key = torch.cat([plain, torch.sin(positional)], -1), torch.cat([key, shared], -1)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        merged: Tensor = self.o(out.transpose(1, 2).reshape(batch, length, heads * size))
        return merged


@block(Tokens)
def latent_attention(draw: Draw, tokens: Tokens) -> Made:
    """A rank that can be cut."""
    size, turned, rank = draw.between(2, 4), draw.one((2, 4)), draw.between(3, 8)
    return Residual(LatentAttention(tokens.features, draw.between(2, 3), size, turned, rank)), tokens


class TorchAttention(nn.Module):
    """PyTorch's own layer, with or without the mean of its weights as a second result."""

    def __init__(self, features: int, heads: int, *, weights: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(features, heads, batch_first=True)
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        out, weights = self.inner(x, x, x, need_weights=self.weights)
        if not self.weights:
            result: Tensor = out
            return result
        mixed: Tensor = out + weights @ x
        return mixed


@block(Tokens)
def torch_attention(draw: Draw, tokens: Tokens) -> Made:
    """nn.MultiheadAttention."""
    return TorchAttention(tokens.features, draw.divisor(tokens.features, proper=True), weights=draw.chance(0.3)), tokens


@block(Tokens)
def torch_encoder_layer(draw: Draw, tokens: Tokens) -> Made:
    """nn.TransformerEncoderLayer."""
    heads, hidden, first = draw.divisor(tokens.features, proper=True), draw.width(), draw.chance()
    act = draw.one(("relu", "gelu"))
    return nn.TransformerEncoderLayer(
        tokens.features, heads, hidden, 0.1, act, batch_first=True, norm_first=first
    ), tokens


class AttentionPool(nn.Module):
    """A learned score for each head pools the sequence."""

    def __init__(self, features: int, heads: int, size: int) -> None:
        super().__init__()
        self.value = nn.Linear(features, heads * size)
        self.score = nn.Linear(features, heads)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to [batch, heads · size]."""
        weights = self.score(x).softmax(dim=1)
        value = self.value(x).unflatten(-1, (self.heads, -1))
        return torch.einsum("...nh,...nhd->...hd", weights, value).flatten(1)


@block(Tokens)
def attention_pool(draw: Draw, tokens: Tokens) -> Made:
    """A sequence to a vector."""
    heads, size = draw.between(2, 4), draw.between(2, 5)
    return AttentionPool(tokens.features, heads, size), Vector(heads * size)


class Differential(nn.Module):
    """The difference of two attentions, normed by head (differential transformer)."""

    def __init__(self, features: int, heads: int, size: int) -> None:
        super().__init__()
        self.sizes = (heads, size)
        self.qk = nn.Linear(features, 4 * heads * size, bias=False)
        self.v = nn.Linear(features, 2 * heads * size, bias=False)
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(size)) for _ in range(2)])
        self.norm = nn.RMSNorm(2 * size)
        self.o = nn.Linear(2 * heads * size, features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        heads, size = self.sizes
        query, key = self.qk(x).unflatten(-1, (2, heads, 2, size)).permute(2, 0, 3, 4, 1, 5).unbind(0)
        value = self.v(x).unflatten(-1, (heads, 2 * size)).transpose(1, 2)
        maps = (query @ key.transpose(-1, -2)).softmax(-1)
        share = torch.exp((self.weights[0] * self.weights[1]).sum())
        out = self.norm((maps[:, :, 0] - share * maps[:, :, 1]) @ value)
        merged: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return merged


@block(Tokens)
def differential(draw: Draw, tokens: Tokens) -> Made:
    """Two maps for each head."""
    return Residual(Differential(tokens.features, draw.between(1, 3), draw.between(2, 3))), tokens
