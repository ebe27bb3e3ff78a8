"""Recurrent layers, step by step from the cells' equations: a dead unit's state is never read.

LSTM: i, f, g, o = W x + b + U h + c;  c' = s(f) c + s(i) tanh(g);  h' = s(o) tanh(c'), s the sigmoid
GRU:  r, z, n;  n = tanh(W x + b + r (U h + c));  h' = (1 - z) n + z h
RNN:  h' = tanh or relu (W x + b + U h + c)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tests.reference.calls import Call, rule
from tests.reference.values import Masked, silence, spread

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Weights:
    """One layer's parameters in one direction, biases zero where there are none."""

    into: Masked
    back: Masked
    first: Tensor
    second: Tensor
    alive: Tensor  # of each hidden unit


def weights_of(parameters: Sequence[Masked], hidden: int) -> Weights:
    """A unit is alive if all of its gates are, in every parameter."""
    into, back, *biases = parameters
    rows = into.alive.any(1) & back.alive.any(1)
    for bias in biases:
        rows = rows & bias.alive
    by_gate = rows.view(-1, hidden)
    assert torch.equal(by_gate.all(0), by_gate.any(0)), "the gates of a hidden unit are cut differently"
    none = torch.zeros(len(rows), dtype=into.value.dtype)
    first, second = (each.value for each in biases) if biases else (none, none)
    return Weights(into, back, first, second, by_gate.all(0))


def step(name: str, weights: Weights, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The next hidden and cell state."""
    seen = x @ silence(weights.into).T + weights.first
    kept = torch.where(weights.alive, hidden, 0) @ silence(weights.back).T + weights.second
    if name == "lstm":
        enter, forget, new, out = (seen + kept).chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell
    if name == "gru":
        reset, update, new = seen.chunk(3, dim=-1)
        again, hold, old = kept.chunk(3, dim=-1)
        update = torch.sigmoid(update + hold)
        return (1 - update) * torch.tanh(new + torch.sigmoid(reset + again) * old) + update * hidden, cell
    return (torch.tanh if name == "rnn_tanh" else torch.relu)(seen + kept), cell


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> tuple[Masked, ...]:
    """All layers and directions; outputs, last hidden states and, of an LSTM, last cell states."""
    states = call["hx"] if call.name == "lstm" else [call["hx"]]
    hidden, cell = states[0], states[-1]
    directions, per_cell = 1 + int(call["bidirectional"]), 4 if call["has_biases"] else 2
    sequence = call["input"]
    sequence = Masked(*(each.transpose(0, 1) if call["batch_first"] else each for each in parts(sequence)))
    ends: list[tuple[Masked, Masked]] = []
    for layer in range(call["num_layers"]):
        made = []
        for at in range(layer * directions, (layer + 1) * directions):
            weights = weights_of(call["params"][at * per_cell : (at + 1) * per_cell], hidden.value.shape[-1])
            begin = (hidden.value[at], cell.value[at])
            found, last = walk(call.name, weights, silence(sequence), begin, backwards=at % directions == 1)
            made.append(spread(found, weights.alive))
            ends.append((spread(last[0], weights.alive), spread(last[1], weights.alive)))
        sequence = Masked(*(torch.cat(each, -1) for each in zip(*map(parts, made), strict=True)))
    outputs = Masked(*(each.transpose(0, 1) if call["batch_first"] else each for each in parts(sequence)))
    last_states = [
        Masked(*(torch.stack(each) for each in zip(*map(parts, end), strict=True))) for end in zip(*ends, strict=True)
    ]
    return (outputs, *last_states[: 2 if call.name == "lstm" else 1])


def walk(
    name: str, weights: Weights, sequence: Tensor, state: tuple[Tensor, Tensor], *, backwards: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer in one direction along a sequence [length, batch, features]."""
    outputs: list[Tensor] = []
    for x in reversed(sequence.unbind(0)) if backwards else sequence.unbind(0):
        state = step(name, weights, x, *state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


def parts(masked: Masked) -> tuple[Tensor, Tensor]:
    """The value and the mask."""
    return masked.value, masked.alive
