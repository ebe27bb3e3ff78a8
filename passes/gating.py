"""Where gates stand: at one factor of every sum of products along a group, and around every statistic along one.

In a recurrent layer the hidden units are consumed inside: there the gate stands at the columns of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from fxprune.analysis import Analysis
from fxprune.axes import Axes, Variable, leaves
from fxprune.groups import Group, variables_of
from fxprune.indexing import index_of
from fxprune.passes.switches import Consumer, Gate, OverKept, Site, Switch
from fxprune.propagate import Propagation
from fxprune.rules import Role, find_rule
from fxprune.rules.elementwise import TensorAxes

if TYPE_CHECKING:
    pass

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


def insert_gates(
    graph: Graph, analysis: Analysis, switch: Switch, prefix: str
) -> tuple[dict[str, nn.Module], list[Consumer]]:
    """Put gates and wrappers into an emitted graph; returns them by name, and what they stand in front of."""
    by_variable = {group.variable: group for group in analysis.groups}
    gates: dict[str, nn.Module] = {}
    consumers: list[Consumer] = []
    live = _live(analysis)
    for node in list(graph.nodes):
        origin: Node = node.meta["origin"]
        rule = find_rule(origin.target) if origin.op == "call_function" else None
        mixed = [v for axis in analysis.propagation.mixed.get(origin, ()) for v in variables_of(axis)]
        groups = {by_variable[variable].name: by_variable[variable] for variable in mixed if variable in by_variable}
        if rule is None or not groups:
            continue
        if rule.role is Role.REDUCTION:
            name = f"{prefix}over_kept_{len(gates)}"
            gates[name] = OverKept(switch, frozenset(groups), Site(origin, rule, analysis.propagation))
            _wrap(graph, node, name)
        elif rule.role is Role.CONTRACTION:
            for operand, gating in _operands(node, list(groups.values()), analysis.propagation, live).items():
                name = f"{prefix}gate_{len(gates)}"
                axes = analysis.propagation.values[operand.meta["origin"]]
                own, dims = gating.groups, gating.dims
                places = [_place(switch, group, axes, dim) for group in own for dim in dims[group.name]]
                gates[name] = Gate(switch, frozenset(group.name for group in own), places)
                _gate(graph, node, operand, name, gating.times)
                consumers += [Consumer(origin, group.name, name, dims[group.name]) for group in own]
    return gates, consumers


def _live(analysis: Analysis) -> set[Node]:
    """Values that depend on the model's inputs."""
    found = set[Node]()
    for node in analysis.program.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


@dataclass(slots=True)
class Gating:
    """A gate to be: the groups that it is for, their dimensions, and at how many arguments the operand stands."""

    groups: list[Group]
    dims: dict[str, tuple[int, ...]]
    times: int


def _operands(node: Node, groups: Sequence[Group], propagation: Propagation, live: set[Node]) -> dict[Node, Gating]:
    """Operands to put gates at."""
    found: dict[Node, Gating] = {}
    origin: Node = node.meta["origin"]
    for group in groups:
        holders = {each: _dims(propagation, each, group.variable) for each in node.all_input_nodes}
        holders = {each: dims for each, dims in holders.items() if dims}
        times = sum(group.variable in variables_of(axis) for axis in propagation.mixed[origin])
        if origin.target in _RECURRENT:  # columns of weights: what the layer's own steps consume
            weights = [each for each, dims in holders.items() if dims[-1] == 1 and each.meta["origin"] not in live]
            wanted: dict[Node, tuple[int, ...]] = dict.fromkeys(weights, (1,))
        else:  # one factor of each sum of products
            ordered = sorted(holders, key=lambda each: each.meta["origin"] not in live)
            wanted = {each: holders[each] for each in ordered[:times]}
        for each, dims in wanted.items():
            gating = found.setdefault(each, Gating([], {}, 1))
            gating.groups.append(group)
            gating.dims[group.name] = dims
            gating.times = max(gating.times, times - len(wanted) + 1)
    return found


def _dims(propagation: Propagation, node: Node, variable: Variable) -> tuple[int, ...]:
    axes = propagation.values.get(node.meta["origin"])
    if not isinstance(axes, TensorAxes):
        return ()
    return tuple(dim for dim, axis in enumerate(axes) if variable in leaves(axis))


def _place(switch: Switch, group: Group, axes: Axes, dim: int) -> Tensor:
    """For every position along a dimension (and along that of the outer variable) its entry in the masks."""
    start, _ = switch.spans[group.name]
    labels = index_of(axes[dim], group.variable)
    shape = [1] * len(axes)
    shape[dim] = len(labels)
    labels = labels.reshape(shape)
    if group.outer is not None:
        rows, along = _rows(group.outer, axes, dim)
        shape = [1] * len(axes)
        shape[along] = len(rows)
        rows = rows.reshape(shape)
        labels = torch.where((labels < 0) | (rows < 0), -1, rows * group.size + labels)
    return torch.where(labels < 0, len(switch.masks) - 1, labels + start)


def _rows(outer: Variable, axes: Axes, dim: int) -> tuple[Tensor, int]:
    """Index of the outer variable along the dimension where it lies: the same one, or another."""
    along = dim if outer in leaves(axes[dim]) else next(at for at, each in enumerate(axes) if outer in leaves(each))
    return index_of(axes[along], outer), along


def _gate(graph: Graph, node: Node, operand: Node, name: str, times: int) -> None:
    """Put a gate between an operand and the first so many arguments of a node that it is."""
    with graph.inserting_before(node):
        gate = graph.call_module(name, (operand,))
    gate.meta = {"origin": operand.meta["origin"]}
    replaced = 0

    def once(each: Node) -> Node:
        nonlocal replaced
        replaced += each is operand
        return gate if each is operand and replaced <= times else each

    node.args, node.kwargs = map_arg((node.args, dict(node.kwargs)), once)


def _wrap(graph: Graph, node: Node, name: str) -> None:
    with graph.inserting_before(node):
        call = graph.call_module(name, node.args, dict(node.kwargs))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
