"""Blocks on sequences, attention aside."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.channels import Scale
from tests.randomgraphs.images import Residual, Twice
from tests.randomgraphs.kinds import Ids, Tokens
from tests.randomgraphs.registry import Apply, Draw, Made, activation, block


@block(Tokens)
def linear(draw: Draw, tokens: Tokens) -> Made:
    """A projection and an activation."""
    out = draw.width()
    return nn.Sequential(
        nn.Linear(tokens.features, out, bias=draw.chance()), activation(draw, inplace=True)
    ), tokens.wide(out)


@block(Tokens)
def mlp(draw: Draw, tokens: Tokens) -> Made:
    """A residual feed-forward block, norm first."""
    hidden = draw.width()
    inner = nn.Sequential(
        make_norm(draw, tokens.features),
        nn.Linear(tokens.features, hidden),
        activation(draw),
        nn.Dropout(0.1),
        nn.Linear(hidden, tokens.features),
    )
    return Residual(inner), tokens


class RMSNorm(nn.Module):
    """Root mean square over features, by hand, as language models write it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Weight · x / √mean(x²)."""
        wide = x.to(torch.float64)
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * normal.to(x.dtype)


def make_norm(draw: Draw, features: int) -> nn.Module:
    """Any norm of features."""
    return draw.one(
        (
            nn.LayerNorm(features),
            nn.LayerNorm(features, elementwise_affine=False),
            nn.RMSNorm(features),
            RMSNorm(features),
            Apply(lambda x: F.normalize(x, dim=-1)),
        )
    )


@block(Tokens)
def token_norm(draw: Draw, tokens: Tokens) -> Made:
    """A norm by itself."""
    return make_norm(draw, tokens.features), tokens


class GatedMLP(nn.Module):
    """SwiGLU; the two projections may be one, whose halves are taken apart."""

    def __init__(self, features: int, hidden: int, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        if fused:
            self.gate_up = nn.Linear(features, 2 * hidden, bias=False)
        else:
            self.gate = nn.Linear(features, hidden, bias=False)
            self.up = nn.Linear(features, hidden)
        self.down = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """W₃ (silu(W₁ x) · W₂ x)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1) if self.fused else (self.gate(x), self.up(x))
        out: Tensor = self.down(F.silu(gate) * up)
        return out


@block(Tokens)
def gated_mlp(draw: Draw, tokens: Tokens) -> Made:
    """With or without the residual."""
    inner = GatedMLP(tokens.features, draw.width(), fused=draw.chance())
    return (Residual(inner) if draw.chance() else inner), tokens


class TiedMLP(nn.Module):
    """One matrix there and, transposed, back."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        """Wᵀ relu(W x)."""
        return F.linear(torch.relu(F.linear(x, self.matrix)), self.matrix.t())


@block(Tokens)
def tied_mlp(draw: Draw, tokens: Tokens) -> Made:
    """An autoencoder."""
    return TiedMLP(tokens.features, draw.width()), tokens


class TiedLinears(nn.Module):
    """Two layers that share one parameter object."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, features)
        self.second = nn.Linear(features, features)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """Two layers."""
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out


@block(Tokens)
def tied_linears(draw: Draw, tokens: Tokens) -> Made:
    """Tied by name, or one module called twice."""
    if draw.chance():
        return TiedLinears(tokens.features), tokens
    return Twice(nn.Linear(tokens.features, tokens.features)), tokens


class Positions(nn.Module):
    """A table of positions is added."""

    def __init__(self, tokens: Tokens, *, looked_up: bool) -> None:
        super().__init__()
        self.looked_up = looked_up
        self.length = tokens.length
        if looked_up:
            self.table = nn.Embedding(tokens.length, tokens.features)
        else:
            self.position = nn.Parameter(torch.zeros(1, tokens.length, tokens.features))

    def forward(self, x: Tensor) -> Tensor:
        """X plus its positions."""
        if not self.looked_up:
            return x + self.position
        looked_up: Tensor = self.table(torch.arange(self.length, device=x.device))
        return x + looked_up


@block(Tokens)
def positions(draw: Draw, tokens: Tokens) -> Made:
    """A bare table, or an embedding of positions."""
    return Positions(tokens, looked_up=draw.chance()), tokens


class ClassToken(nn.Module):
    """A learned token in front."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        """One longer."""
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


@block(Tokens)
def class_token(draw: Draw, tokens: Tokens) -> Made:
    """A sequence longer by one."""
    del draw
    return ClassToken(tokens.features), Tokens(tokens.length + 1, tokens.features)


@block(Tokens)
def token_scale(draw: Draw, tokens: Tokens) -> Made:
    """LayerScale on features."""
    del draw
    return Scale(tokens.features), tokens


@block(Tokens)
def token_conv(draw: Draw, tokens: Tokens) -> Made:
    """A depthwise or whole convolution along the sequence."""
    groups = tokens.features if draw.chance() else 1
    return TokenConv(nn.Conv1d(tokens.features, tokens.features, 3, padding=1, groups=groups)), tokens


class TokenConv(nn.Module):
    """Features are the channels."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Transpose, convolve, transpose."""
        out: Tensor = self.conv(x.transpose(1, 2))
        return out.transpose(1, 2)


class TokenMixer(nn.Module):
    """A feed-forward block along the sequence, as MLP-Mixer has it."""

    def __init__(self, length: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(length, hidden), nn.GELU(), nn.Linear(hidden, length))

    def forward(self, x: Tensor) -> Tensor:
        """X plus what its positions tell each other."""
        out: Tensor = self.inner(x.mT)
        return x + out.mT


@block(Tokens)
def token_mixer(draw: Draw, tokens: Tokens) -> Made:
    """A hidden width that belongs to no feature."""
    return TokenMixer(tokens.length, draw.between(4, 12)), tokens


class EinsumHeads(nn.Module):
    """A projection to heads and back, with heads as an axis of the parameters."""

    def __init__(self, features: int, heads: int, size: int) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.zeros(features, heads, size))
        self.out = nn.Parameter(torch.zeros(heads, size, features))
        self.gain = nn.Parameter(torch.zeros(heads, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Two contractions."""
        heads = torch.tanh(torch.einsum("bnf,fhd->bnhd", x, self.into)) * self.gain
        return torch.einsum("bnhd,hdf->bnf", heads, self.out)


@block(Tokens)
def einsum_heads(draw: Draw, tokens: Tokens) -> Made:
    """Heads without any reshape."""
    return EinsumHeads(tokens.features, draw.between(2, 4), draw.between(2, 6)), tokens


@block(Tokens)
def slice_features(draw: Draw, tokens: Tokens) -> Made:
    """Some features, taken after the rest is rolled behind them."""
    size = draw.between(max(1, tokens.features // 2), tokens.features)
    return Apply(lambda x: torch.narrow(x, 2, 0, size)), tokens.wide(size)


@block(Tokens)
def roll_features(draw: Draw, tokens: Tokens) -> Made:
    """A mixture along the features that pins them."""
    shift = draw.between(1, max(1, tokens.features - 1))
    mix = draw.one((lambda x: x + x.roll(shift, -1), lambda x: x * x.softmax(-1), lambda x: x.cumsum(-1).tanh() + x))
    return Apply(mix), tokens


@block(Ids)
def embedding(draw: Draw, ids: Ids) -> Made:
    """A table of the vocabulary."""
    features = draw.width()
    return nn.Embedding(ids.vocabulary, features), Tokens(ids.length, features)
