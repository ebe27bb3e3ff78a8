"""What an analysis found, as figures: what groups hold, what pinned axes hold back, what was not understood.

The figures count elements of parameters. A group holds the elements that lie in one of its slices; a pinned axis
holds back the elements that lie along it; an operation without a rule costs what the axes that it pinned hold back.
Of a tensor whose axes are a0 x a1 x ..., the elements in no slice of a variable v are the product over the axes of
the positions without v, where

    without(v) = 0,  without(u) = size(u)
    without(a x b) = without(a) * without(b)
    without([a + b]) = without(a) + without(b)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from torch.fx import Node

from fxprune.axes import Axes, Axis, Product, Variable, leaves
from fxprune.coupling import module_of, operation_name, user_line

if TYPE_CHECKING:
    from fxprune.analysis import Analysis

KERNEL = "kernel"
"""Reason of pins that interest nobody: a convolution's kernel is no place to prune."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One dependency group: how many axes and parameters it holds, and the group that its choice is nested under."""

    name: str
    kind: str
    size: int
    axes: int
    parameters: int
    nested_under: str | None


@dataclass(frozen=True, slots=True)
class PinFacts:
    """Indices that must stay: why, for which operation, on which axes, and how many parameters lie along them."""

    reason: str
    operation: str | None
    source: str | None
    size: int
    axes: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class UnknownFacts:
    """Operations of one kind that have no rule: how many, in which modules, and how many parameters they hold back."""

    operation: str
    count: int
    modules: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class ConflictFacts:
    """Two axes that had to be equal and could not be matched."""

    left: str
    right: str
    operation: str | None
    module: str
    source: str | None


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """A block that can be dropped whole, or a sibling of one that cannot: the reason, None where it can."""

    name: str
    kind: str
    parameters: int
    identity: bool
    inside: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """All that is said about an analysis.

    Attributes:
        model: class of the model.
        parameters: elements of all parameters, tied ones counted once.
        prunable: those of them that lie in a slice of some group.
        operations: number of operations in the captured graph.
        dynamic_batch: whether the batch size is free.
        notes: remarks of the capture.
        groups: in the order of their first parameter.
        blocks: what can be dropped whole, with the siblings that cannot, in the model's order.
        pins: those that hold back most first; convolution kernels left out.
        unknown: those that hold back most first.
        conflicts: in the order of execution.
    """

    model: str
    parameters: int
    prunable: int
    operations: int
    dynamic_batch: bool
    notes: tuple[str, ...]
    groups: tuple[GroupFacts, ...]
    blocks: tuple[BlockFacts, ...]
    pins: tuple[PinFacts, ...]
    unknown: tuple[UnknownFacts, ...]
    conflicts: tuple[ConflictFacts, ...]


def summarise(analysis: Analysis) -> Summary:
    """Collect the figures of an analysis."""
    program = analysis.program
    parameters = _parameters(analysis)
    free = {group.variable for group in analysis.groups}
    return Summary(
        model=program.root.__name__,
        parameters=_all_elements(analysis),
        prunable=held_by(free, parameters),
        operations=sum(node.op == "call_function" for node in program.nodes),
        dynamic_batch=program.dynamic_batch,
        notes=program.notes,
        groups=_groups(analysis, parameters),
        blocks=_blocks(analysis),
        pins=_pins(parameters),
        unknown=_unknown(analysis, parameters),
        conflicts=_conflicts(analysis),
    )


def held_by(variables: set[Variable], tensors: Mapping[str, Axes]) -> int:
    """Number of elements that lie in a slice of any of `variables`."""
    return sum(
        prod(axis.size for axis in axes) - prod(_without(variables, axis) for axis in axes) for axes in tensors.values()
    )


def _without(variables: set[Variable], axis: Axis) -> int:
    """Number of positions of `axis` at which none of `variables` occurs."""
    if isinstance(axis, Variable):
        return 0 if axis in variables else axis.size
    if isinstance(axis, Product):
        return prod(_without(variables, factor) for factor in axis.factors)
    return sum(_without(variables, part) for part in axis.parts)


def _parameters(analysis: Analysis) -> dict[str, Axes]:
    """Axes of the parameters that the graph reads."""
    program = analysis.program
    own = program.tensors.keys() - program.buffers
    return {name: axes for name, axes in analysis.propagation.tensors.items() if name in own}


def _all_elements(analysis: Analysis) -> int:
    program = analysis.program
    return sum(
        tensor.numel()
        for name, tensor in program.tensors.items()
        if name not in program.buffers and name not in program.aliases
    )


def _groups(analysis: Analysis, parameters: Mapping[str, Axes]) -> tuple[GroupFacts, ...]:
    names = {group.variable: group.name for group in analysis.groups}
    touching = _by_variable(parameters)
    return tuple(
        GroupFacts(
            name=group.name,
            kind=group.kind,
            size=group.size,
            axes=len(group.members),
            parameters=held_by({group.variable}, touching[group.variable]),
            nested_under=None if group.outer is None else names.get(group.outer, "a pinned axis"),
        )
        for group in analysis.groups
    )


def _blocks(analysis: Analysis) -> tuple[BlockFacts, ...]:
    survey = analysis.survey
    families = {(block.family, block.kind) for block in survey.blocks}
    found = [
        *(BlockFacts(b.name, b.kind, b.parameters, b.identity, b.inside, None) for b in survey.blocks),
        *(
            BlockFacts(each.name, each.kind, 0, False, None, each.reason)
            for each in survey.refusals
            if (each.family, each.kind) in families
        ),
    ]
    order = {path: at for at, path in enumerate(analysis.program.module_types)}
    return tuple(sorted(found, key=lambda each: order[each.name]))


def _by_variable(parameters: Mapping[str, Axes]) -> dict[Variable, dict[str, Axes]]:
    """The tensors that hold each variable, so that counting stays linear in the number of groups."""
    found: dict[Variable, dict[str, Axes]] = {}
    for name, axes in parameters.items():
        for axis in axes:
            for variable in leaves(axis):
                found.setdefault(variable, {})[name] = axes
    return found


def _pins(parameters: Mapping[str, Axes]) -> tuple[PinFacts, ...]:
    """Pinned variables, those of one reason at one operation together."""
    touching = _by_variable(parameters)
    causes: dict[tuple[str, Node | None, int], list[Variable]] = {}
    for variable in touching:
        if variable.pin is not None and variable.pin.reason != KERNEL and variable.size > 1:
            causes.setdefault((variable.pin.reason, variable.pin.node, variable.size), []).append(variable)
    found = [_pin(*cause, variables, touching) for cause, variables in causes.items()]
    return tuple(sorted(found, key=lambda each: -each.parameters))


def _pin(
    reason: str,
    node: Node | None,
    size: int,
    pinned: Sequence[Variable],
    touching: Mapping[Variable, Mapping[str, Axes]],
) -> PinFacts:
    variables = set(pinned)
    tensors = {name: axes for variable in pinned for name, axes in touching[variable].items()}
    axes = tuple(
        f"{name}[{dim}]"
        for name, own in tensors.items()
        for dim, axis in enumerate(own)
        if not variables.isdisjoint(leaves(axis))
    )
    return PinFacts(reason, _named(node), _source(node), size, axes, held_by(variables, tensors))


def _unknown(analysis: Analysis, parameters: Mapping[str, Axes]) -> tuple[UnknownFacts, ...]:
    kinds: dict[str, list[Node]] = {}
    for node in analysis.propagation.unknown:
        kinds.setdefault(str(node.target), []).append(node)
    pinned = [variable for variable in _by_variable(parameters) if variable.pin is not None and variable.size > 1]
    found = [
        UnknownFacts(kind, len(nodes), _modules(nodes), held_by(_pinned_by(nodes, pinned), parameters))
        for kind, nodes in kinds.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.parameters))


def _pinned_by(nodes: Iterable[Node], pinned: Iterable[Variable]) -> set[Variable]:
    asking = set(nodes)
    return {variable for variable in pinned if variable.pin is not None and variable.pin.node in asking}


def _modules(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module_of(node) for node in nodes))


def _conflicts(analysis: Analysis) -> tuple[ConflictFacts, ...]:
    return tuple(_conflict(each.left, each.right, each.node) for each in analysis.propagation.conflicts)


def _conflict(left: str, right: str, node: Node | None) -> ConflictFacts:
    return ConflictFacts(left, right, _named(node), "" if node is None else module_of(node), _source(node))


def _named(node: Node | None) -> str | None:
    if node is None:
        return None
    return operation_name(node) if node.op == "call_function" else node.name


def _source(node: Node | None) -> str | None:
    line = None if node is None else user_line(node)
    return None if line is None else str(line)
