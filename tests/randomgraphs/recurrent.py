"""Blocks that walk along a sequence: recurrent layers, scans, shifts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_leaves

from tests.randomgraphs.images import Residual
from tests.randomgraphs.kinds import Tokens, Vector
from tests.randomgraphs.registry import Draw, Made, block


class Recurrent(nn.Module):
    """A recurrent layer: its outputs, or its last states."""

    def __init__(self, layer: nn.RNNBase, take: str) -> None:
        super().__init__()
        self.layer = layer
        self.take = take

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to outputs, or to the last layer's last state."""
        if self.layer.batch_first:
            outputs, states = self.layer(x)
        else:
            outputs, states = self.layer(x.transpose(0, 1))
            outputs = outputs.transpose(0, 1)
        if self.take == "outputs":
            result: Tensor = outputs
        else:
            hidden = states[0] if isinstance(states, tuple) else states
            result = hidden[-1]
        return result


def make_recurrent(draw: Draw, features: int) -> nn.RNNBase:
    """LSTM, GRU or plain, one or two layers, one or both directions."""
    kind: type[nn.RNNBase] = draw.one((nn.LSTM, nn.GRU, nn.RNN))
    layers, both, first = draw.one((1, 1, 2)), draw.chance(0.3), draw.chance()
    hidden, bias = draw.between(3, 8), draw.chance(0.8)
    return kind(  # type: ignore[call-arg]
        input_size=features, hidden_size=hidden, num_layers=layers, bias=bias, batch_first=first, bidirectional=both
    )


@block(Tokens)
def recurrent_layer(draw: Draw, tokens: Tokens) -> Made:
    """All outputs."""
    layer = make_recurrent(draw, tokens.features)
    return Recurrent(layer, "outputs"), tokens.wide(layer.hidden_size * (2 if layer.bidirectional else 1))


@cache
def records_states(kind: Callable[..., nn.RNNBase], layers: int, both: bool, first: bool) -> bool:
    """Whether `torch.export` records the shape that a layer's last states have.

    Torch 2.11 does not for LSTMs; fxprune refuses models that use these states there.
    """
    with torch.random.fork_rng(devices=[]):
        layer = kind(2, 3, layers, bidirectional=both, batch_first=first)
    steps = torch.zeros(4, 5, 2)
    with warnings.catch_warnings(action="ignore"):  # of the layer's list of its own weights
        exported = torch.export.export(layer, (steps,), strict=False)
    results = exported.graph_module.graph.output_node().args[0]
    assert isinstance(results, tuple)
    recorded = [tuple(each.meta["val"].shape) for each in results]
    return recorded == [tuple(each.shape) for each in tree_leaves(layer(steps))]


@block(Tokens)
def last_state(draw: Draw, tokens: Tokens) -> Made | None:
    """The last state alone."""
    layer = make_recurrent(draw, tokens.features)
    kind: Any = type(layer)
    if not records_states(kind, layer.num_layers, layer.bidirectional, layer.batch_first):
        return None
    return Recurrent(layer, "state"), Vector(layer.hidden_size)


class Cell(nn.Module):
    """A gated cell, unrolled by Python."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.into = nn.Linear(features, 2 * hidden)
        self.back = nn.Linear(hidden, 2 * hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """S' = (1 - g) s + g c."""
        state = x.new_zeros(x.shape[0], self.back.in_features)
        states = []
        for step in x.unbind(1):
            gate, candidate = (self.into(step) + self.back(state)).chunk(2, dim=-1)
            gate = torch.sigmoid(gate)
            state = (1 - gate) * state + gate * torch.tanh(candidate)
            states.append(state)
        return torch.stack(states, dim=1)


@block(Tokens)
def gated_cell(draw: Draw, tokens: Tokens) -> Made | None:
    """A loop over a short sequence."""
    if tokens.length > 6:
        return None
    hidden = draw.width()
    return Cell(tokens.features, hidden), tokens.wide(hidden)


class StateSpace(nn.Module):
    """A selective scan, as Mamba writes it: x_proj to (dt, B, C), a state of several numbers for each channel."""

    def __init__(self, features: int, inner: int, state: int, rank: int) -> None:
        super().__init__()
        self.split = [rank, state, state]
        self.in_proj = nn.Linear(features, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.a_log = nn.Parameter(torch.zeros(inner, state))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, features, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        x, gate = self.in_proj(u).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
        rate, into, out = self.x_proj(x).split(self.split, dim=-1)
        rate = F.softplus(self.dt_proj(rate))
        decay = torch.exp(rate.unsqueeze(-1) * -torch.exp(self.a_log))
        drive = (rate * x).unsqueeze(-1) * into.unsqueeze(2)
        state = torch.zeros_like(drive[:, 0])
        outputs = []
        for step in range(u.shape[1]):
            state = decay[:, step] * state + drive[:, step]
            outputs.append((state @ out[:, step].unsqueeze(-1)).squeeze(-1))
        y = torch.stack(outputs, dim=1) + x * self.skip
        result: Tensor = self.out_proj(y * F.silu(gate))
        return result


@block(Tokens)
def state_space(draw: Draw, tokens: Tokens) -> Made | None:
    """Mamba."""
    if tokens.length > 5:
        return None
    inner = StateSpace(tokens.features, draw.width(), draw.between(2, 4), draw.between(1, 3))
    return (Residual(inner) if draw.chance() else inner), tokens


class TimeMix(nn.Module):
    """Each position mixed with the one before it, as RWKV does, then a gated product."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.mix = nn.Parameter(torch.zeros(1, 1, features))
        self.key = nn.Linear(features, hidden, bias=False)
        self.receptance = nn.Linear(features, features, bias=False)
        self.value = nn.Linear(hidden, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Squared ReLU, and a gate."""
        mixed = torch.lerp(self.shift(x), x, torch.sigmoid(self.mix))
        out: Tensor = torch.sigmoid(self.receptance(mixed)) * self.value(torch.relu(self.key(mixed)).square())
        return out


@block(Tokens)
def time_mix(draw: Draw, tokens: Tokens) -> Made:
    """RWKV's channel mixing."""
    return Residual(TimeMix(tokens.features, draw.width())), tokens


class LinearRecurrence(nn.Module):
    """A decay for each feature, the scan written as a product with a triangular matrix of powers."""

    def __init__(self, features: int, length: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(features))
        self.into = nn.Linear(features, features)
        ages = (torch.arange(length)[:, None] - torch.arange(length)[None, :]).double()
        self.register_buffer("ages", ages.clamp(min=0))
        self.register_buffer("past", torch.ones(length, length).tril() > 0)

    def forward(self, x: Tensor) -> Tensor:
        """y[t] = Σ a^(t - s) x[s]."""
        decay = torch.sigmoid(self.decay)
        powers = torch.where(self.get_buffer("past")[..., None], decay ** self.get_buffer("ages").abs()[..., None], 0.0)
        return torch.einsum("tsf,bsf->btf", powers, self.into(x))


@block(Tokens)
def linear_recurrence(draw: Draw, tokens: Tokens) -> Made:
    """As retention and its kin."""
    del draw
    return LinearRecurrence(tokens.features, tokens.length), tokens
