"""Layers whose weights are computed: normed, standardised, summed, factored, shared, generated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations

from tests.randomgraphs.kinds import Ids, Image, Tokens, Vector
from tests.randomgraphs.registry import Draw, Made, block


@block(Tokens)
def parametrised_linear(draw: Draw, tokens: Tokens) -> Made:
    """weight_norm along either axis, or spectral_norm."""
    made = nn.Linear(tokens.features, draw.width())
    if draw.chance(0.4):
        return parametrizations.spectral_norm(made), tokens.wide(made.out_features)
    return parametrizations.weight_norm(made, dim=draw.one((0, 1))), tokens.wide(made.out_features)


@block(Image)
def spectral_conv(draw: Draw, image: Image) -> Made:
    """A weight over its largest singular value, which depends on all of it."""
    made = nn.Conv2d(image.channels, draw.width(), draw.one((1, 3)), padding="same")
    return parametrizations.spectral_norm(made), image.wide(made.out_channels)


class ScaledStandardConv(nn.Conv2d):
    """As timm writes it: the weight as one sample under batch_norm, a gain for each filter."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(out, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The convolution with each filter standardised."""
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain.view(-1), training=True, momentum=0.0, eps=1e-3)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


@block(Image)
def scaled_standard_conv(draw: Draw, image: Image) -> Made:
    """NFNet's convolution."""
    out = draw.width()
    return ScaledStandardConv(image.channels, out), image.wide(out)


class LowRank(nn.Module):
    """A layer beside a narrow correction (LoRA), added as outputs or as weights."""

    def __init__(self, features: int, out: int, rank: int, *, merged: bool) -> None:
        super().__init__()
        self.base = nn.Linear(features, out)
        self.a = nn.Parameter(torch.zeros(rank, features))
        self.b = nn.Parameter(torch.zeros(out, rank))
        self.merged = merged

    def forward(self, x: Tensor) -> Tensor:
        """W x + B A x."""
        if self.merged:
            return F.linear(x, self.base.weight + self.b @ self.a, self.base.bias)
        out: Tensor = self.base(x) + 2.0 * F.linear(F.linear(x, self.a), self.b)
        return out


@block(Tokens)
def low_rank(draw: Draw, tokens: Tokens) -> Made:
    """A rank that can be cut."""
    out = draw.width()
    return LowRank(tokens.features, out, draw.between(2, 5), merged=draw.chance()), tokens.wide(out)


class SummedKernels(nn.Module):
    """Three branches as one kernel: 3 x 3, a padded 1 x 1, and a bias of each (RepVGG)."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, out, 3, padding=1, groups=groups)
        self.narrow = nn.Conv2d(channels, out, 1, groups=groups)
        self.gain = nn.Parameter(torch.ones(out))

    def forward(self, x: Tensor) -> Tensor:
        """One convolution."""
        kernel = self.wide.weight + F.pad(self.narrow.weight, (1, 1, 1, 1))
        assert self.wide.bias is not None
        assert self.narrow.bias is not None
        bias = (self.wide.bias + self.narrow.bias) * self.gain
        return F.conv2d(x, kernel * self.gain.view(-1, 1, 1, 1), bias, padding=1, groups=self.wide.groups)


@block(Image)
def summed_kernels(draw: Draw, image: Image) -> Made:
    """Parameters that meet before they are used."""
    groups = draw.divisor(image.channels, proper=True) if draw.chance(0.4) else 1
    out = groups * draw.between(1, max(1, 16 // groups))
    return SummedKernels(image.channels, out, groups), image.wide(out)


class TiedEmbedding(nn.Module):
    """The table of the vocabulary is the classifier's matrix, too."""

    def __init__(self, vocabulary: int, features: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, features)
        self.body = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, features))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(ids)
        logits: Tensor = self.head(self.norm(x + self.body(x)))
        return logits


@block(Ids)
def tied_embedding(draw: Draw, ids: Ids) -> Made:
    """A small language model."""
    return TiedEmbedding(ids.vocabulary, draw.width(), draw.width()), Tokens(ids.length, ids.vocabulary)


@block(Ids)
def summed_embeddings(draw: Draw, ids: Ids) -> Made:
    """Tokens, positions and kinds, normed (BERT); sometimes factored (ALBERT)."""
    narrow, wide = draw.width(), draw.width()
    return SummedEmbeddings(ids, narrow, wide), Tokens(ids.length, wide)


class SummedEmbeddings(nn.Module):
    """Three tables and a projection."""

    def __init__(self, ids: Ids, narrow: int, wide: int) -> None:
        super().__init__()
        self.word = nn.Embedding(ids.vocabulary, narrow, padding_idx=0)
        self.position = nn.Embedding(ids.length + 2, narrow)
        self.kind = nn.Embedding(2, narrow)
        self.norm = nn.LayerNorm(narrow)
        self.project = nn.Linear(narrow, wide)

    def forward(self, ids: Tensor) -> Tensor:
        """The sum, projected."""
        places = torch.arange(ids.shape[1], device=ids.device) + 2
        total = self.word(ids) + self.position(places).unsqueeze(0) + self.kind(torch.zeros_like(ids))
        out: Tensor = self.project(self.norm(total))
        return out


class SharedStages(nn.Module):
    """One layer and one norm in several places, with layers of their own between."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(features, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.shared = nn.Linear(hidden, hidden)
        self.between = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The shared layer two times, the norm three times."""
        x = self.norm(self.up(x))
        x = self.norm(x + F.gelu(self.shared(x)))
        out: Tensor = self.norm(self.between(x) + self.shared(torch.tanh(x)))
        return out


@block(Tokens)
def shared_stages(draw: Draw, tokens: Tokens) -> Made:
    """A module called again and again."""
    hidden = draw.width()
    return SharedStages(tokens.features, hidden), tokens.wide(hidden)


class Generated(nn.Module):
    """The weights of one layer are the outputs of another."""

    def __init__(self, features: int, condition: int, rank: int) -> None:
        super().__init__()
        self.generate = nn.Linear(condition, rank * features)
        self.back = nn.Linear(rank, features)
        self.rank = rank

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """X + B W(c) x."""
        weight = self.generate(condition).view(x.shape[0], self.rank, -1)
        out: Tensor = self.back(torch.tanh(torch.bmm(x, weight.transpose(1, 2))))
        return x + out


@block(Tokens, Vector)
def generated_weights(draw: Draw, tokens: Tokens, vector: Vector) -> Made:
    """A hypernetwork."""
    return Generated(tokens.features, vector.features, draw.between(2, 5)), tokens


class Pairwise(nn.Module):
    """Two vectors through a tensor, by their cosine, and by their outer product."""

    def __init__(self, first: int, second: int, out: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(first, 4), nn.Linear(second, 4)
        self.bilinear = nn.Bilinear(first, second, out)
        self.outer = nn.Linear(16, out)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[batch, out]."""
        out: Tensor = self.bilinear(x, y)
        if self.how == "cosine":
            return out * F.cosine_similarity(self.first(x), self.second(y), dim=-1).unsqueeze(-1)
        if self.how == "outer":
            pairs = self.first(x).unsqueeze(2) * self.second(y).unsqueeze(1)
            return out + torch.relu(self.outer(pairs.flatten(1)))
        return out


@block(Vector, Vector)
def pairwise(draw: Draw, first: Vector, second: Vector) -> Made:
    """nn.Bilinear and what resembles it."""
    out = draw.width()
    return Pairwise(first.features, second.features, out, draw.one(("plain", "cosine", "outer"))), Vector(out)
