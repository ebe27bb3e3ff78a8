"""Fragments: the pieces of a graph that are timed by themselves.

Backends fuse: a convolution with the batch norm, the activation and the residual addition behind it is often one kernel. So a
fragment is a *producer*, an operation that sums over an axis (`Role.CONTRACTION`), with the operations behind it that bring no
new sizes into play; these join the fragment of the latest of their inputs. What joins none (a pooling of the model's input, a
concatenation of several widths, an embedding) begins a fragment of its own. Every operation on tensors is in exactly one.

A fragment's time depends on the sizes of its `basis` (`fxprune.latency.basis`); those that depend on none cost the same in
every candidate and are not timed. Neither are those that only look at tensors in another way (views).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from fxprune.analysis import Analysis
from fxprune.axes import Axes, Axis, Variable, leaves
from fxprune.latency.basis import basis_of, columns_of
from fxprune.passes.slim import axes_of
from fxprune.rules import Role, find_rule

OTHER = "other"
_MOVES = frozenset({"reshape", "flatten", "contiguous", "clone", "expand_as", "dropout", "unflatten"})
"""Operations that are no views by their schema and yet seldom cost anything."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Operations that are timed together.

    Attributes:
        kind: name of the operation that sums over an axis, `conv2d`; "other" where there is none.
        nodes: the operations, in order.
        inputs: values that come from outside, in order of their first use.
        tensors: canonical names of parameters, buffers and constants, likewise.
        outputs: values that are used outside.
        basis: the axes whose sizes the time depends on.
    """

    kind: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    tensors: tuple[str, ...]
    outputs: tuple[Node, ...]
    basis: tuple[Axis, ...]

    def __str__(self) -> str:
        """Its operations, and where the first stands."""
        return f"{self.nodes[0].name}: {' '.join(_name(node) for node in self.nodes)}"


@dataclass(slots=True)
class _Part:
    """A fragment while it is put together."""

    nodes: list[Node] = field(default_factory=list)
    variables: set[Variable] = field(default_factory=set)


def find_fragments(analysis: Analysis) -> tuple[Fragment, ...]:
    """All fragments whose time depends on the groups' widths, in order."""
    groups = columns_of(analysis.groups)
    parts = _partition(analysis, groups)
    made = [_fragment(analysis, part, groups) for part in parts if not all(map(_is_move, part.nodes))]
    return tuple(fragment for fragment in made if fragment.basis)


def _partition(analysis: Analysis, groups: Mapping[Variable, int]) -> list[_Part]:
    parts: list[_Part] = []
    owner: dict[Node, int] = {}
    for node in analysis.program.nodes:
        if node.op != "call_function" or not _has_tensor(node):
            continue
        variables = {leaf for axes in _axes(analysis, node) for axis in axes for leaf in leaves(axis) if leaf in groups}
        home = max((owner[each] for each in node.all_input_nodes if each in owner), default=None)
        if home is None or not _joins(node, variables, parts[home]):
            home = len(parts)
            parts.append(_Part())
        parts[home].nodes.append(node)
        parts[home].variables |= variables
        owner[node] = home
    return parts


def _joins(node: Node, variables: set[Variable], part: _Part) -> bool:
    """Whether an operation belongs behind the ones that are there."""
    return node.target is operator.getitem or (not is_contraction(node) and variables <= part.variables)


def is_contraction(node: Node) -> bool:
    """Whether an operation sums products along an axis."""
    rule = find_rule(node.target)
    return rule is not None and rule.role is Role.CONTRACTION


def _axes(analysis: Analysis, node: Node) -> Iterator[Axes]:
    """Axes of an operation's results and arguments."""
    for each in (node, *node.all_input_nodes):
        yield from axes_of(analysis.propagation, each)


def _fragment(analysis: Analysis, part: _Part, groups: Mapping[Variable, int]) -> Fragment:
    own = set(part.nodes)
    sources = list(dict.fromkeys(each for node in part.nodes for each in node.all_input_nodes if each not in own))
    tensors = [analysis.program.canonical(str(node.target)) for node in sources if node.op == "get_attr"]
    axes = [axis for node in part.nodes for every in _axes(analysis, node) for axis in every]
    producer = next((node for node in part.nodes if is_contraction(node)), None)
    return Fragment(
        kind=OTHER if producer is None else _name(producer),
        nodes=tuple(part.nodes),
        inputs=tuple(node for node in sources if node.op != "get_attr"),
        tensors=tuple(dict.fromkeys(tensors)),
        outputs=tuple(node for node in part.nodes if not own.issuperset(node.users)),
        basis=basis_of(axes, groups),
    )


def attributes_of(fragment: Fragment) -> list[Node]:
    """The nodes that read its parameters, buffers and constants."""
    inputs = (each for node in fragment.nodes for each in node.all_input_nodes if each.op == "get_attr")
    return list(dict.fromkeys(inputs))


def _has_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value))


def _is_move(node: Node) -> bool:
    """Whether an operation only looks at a tensor in another way."""
    target = node.target
    return target is operator.getitem or (isinstance(target, OpOverload) and (target.is_view or _name(node) in _MOVES))


def _name(node: Node) -> str:
    """`conv2d` for `aten.conv2d.default`."""
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else str(target)
