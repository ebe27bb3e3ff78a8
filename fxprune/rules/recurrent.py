"""Recurrent layers: LSTM, GRU and plain RNN, several layers and both directions.

    gates[(g, h)] = W_ih[(g, h), :] x + b_ih[(g, h)] + W_hh[(g, h), :] s + b_hh[(g, h)],    s' = cell(gates, s)

One hidden variable h for all layers and directions, since the states of all of them are stacked in one tensor; the
gates stand before it in a product. A cut hidden unit with silenced weights and state stays at zero in all of these
cells.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes, Axis, Concat, Product
from fxprune.rules.registry import Role, rule
from fxprune.rules.trace import Trace, result_shapes

aten = torch.ops.aten


@rule(aten.lstm.input, role=Role.CONTRACTION)
def lstm(
    trace: Trace,
    input: Axes,
    states: Sequence[Axes],
    params: Sequence[Axes],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Axes, ...]:
    """Outputs, last hidden states and last cell states."""
    hidden, cell = states
    if hidden[-1].size == cell[-1].size:
        trace.broadcast([hidden, cell])
    else:
        trace.pin_all((*hidden, *cell), "recurrent layer with projections")
    output = _layers(trace, input, hidden, params, 4, has_biases, num_layers, bidirectional)
    return output, *_last(trace, hidden, cell)


@rule(aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input, role=Role.CONTRACTION)
def recurrent(
    trace: Trace,
    input: Axes,
    hidden: Axes,
    params: Sequence[Axes],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Axes, ...]:
    """Outputs and last hidden states."""
    gates = params[0][0].size // hidden[-1].size
    output = _layers(trace, input, hidden, params, gates, has_biases, num_layers, bidirectional)
    return output, *_last(trace, hidden)


def _last(trace: Trace, *states: Axes) -> tuple[Axes, ...]:
    """Last states have the axes of the first ones.

    Some versions of torch record another shape for them than they have: nothing is known of these, and where they are
    used, nothing of the states is cut.
    """
    assert trace.node is not None
    shapes = result_shapes(trace.node)[1:]
    if all(shape == tuple(axis.size for axis in state) for shape, state in zip(shapes, states, strict=True)):
        return states
    used = {user.args[1] for user in trace.node.users if user.target is operator.getitem and user.users}
    if used - {0}:
        trace.pin_all(tuple(axis for state in states for axis in state), "states of unclear shape")
    return tuple(trace.fixed_axes(shape or (), "states of unclear shape") for shape in shapes)


def _layers(
    trace: Trace,
    input: Axes,
    hidden: Axes,
    params: Sequence[Axes],
    gates: int,
    has_biases: Any,
    num_layers: Any,
    bidirectional: Any,
) -> Axes:
    """Unify layer by layer; a layer's outputs are the next one's inputs."""
    directions, per_cell = (2 if bidirectional else 1), (4 if has_biases else 2)
    if len(params) != num_layers * directions * per_cell:  # with projections, whose states have another width
        trace.pin_all(
            (*input, *hidden, *(axis for axes in params for axis in axes)), "recurrent layer with projections"
        )
        return trace.fixed_axes(trace.shape, "recurrent layer with projections")
    unit = hidden[-1]
    trace.label(unit, "hidden units")
    trace.pin(hidden[0], "layers and directions")
    trace.pin_all(input[:-1], "steps of a recurrent layer")
    features: Axis = input[-1]
    for layer in range(num_layers):
        for direction in range(directions):
            start = (layer * directions + direction) * per_cell
            _cell(trace, features, unit, params[start : start + per_cell], gates)
        features = Concat((unit, unit)) if bidirectional else unit
    return (*input[:-1], features)


def _cell(trace: Trace, features: Axis, unit: Axis, params: Sequence[Axes], gates: int) -> None:
    trace.unify(features, params[0][1])
    trace.unify(unit, params[1][1])
    trace.mix(features, unit)
    for axes in params:
        gate = trace.fixed(gates, "gates")
        trace.unify(axes[0], Product((gate, unit)) if gates > 1 else unit)
