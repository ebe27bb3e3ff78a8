"""Dependency groups: what is left free after unification, and what each consists of.

A free variable that occurs on an axis of a parameter is a group: cutting one of its indices removes a slice of every
tensor in whose expression it occurs. Where every tensor that holds the variable also holds one and the same other
variable, before it in the product or on another dimension, and no operation mixes along that other one without mixing
both, the kept indices may differ for each index of the other ("nested choice"): input channels within convolution
groups, dimensions within attention heads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from fxprune.axes import Axes, Axis, Product, Variable, leaves
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.rules import Role, find_rule
from fxprune.rules.elementwise import TensorAxes


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one parameter, buffer or constant."""

    name: str
    dim: int


@dataclass(frozen=True, slots=True)
class Group:
    """Indices that are kept or cut together.

    Attributes:
        name: unique and stable: the module (or bare parameter) that produces the indices, with the kind where several
            share it.
        kind: what the indices are: channels, features, heads, groups, ...
        size: number of indices.
        variable: the variable of the analysis.
        members: axes of parameters, buffers and constants in which the indices occur.
        outer: the variable for each of whose indices the kept indices may differ, or None.
        consumers: number of products (linear layers, convolutions, attention) that sum over the indices.
        least: how many indices have to stay: as many experts as a router chooses.
    """

    name: str
    kind: str
    size: int
    variable: Variable
    members: tuple[Member, ...]
    outer: Variable | None
    consumers: int
    least: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one number per index: (size,), or (outer size, size) for a nested group."""
        return (self.size,) if self.outer is None else (self.outer.size, self.size)

    def __str__(self) -> str:
        """One line: name, kind, size, number of members."""
        return f"{self.name}: {self.size} {self.kind}, {len(self.members)} parameter axes"


def find_groups(program: Program, propagation: Propagation) -> tuple[Group, ...]:
    """All dependency groups, in the order of their first parameter."""
    members = _members(program, propagation)
    outers = find_nesting(propagation, set(members))
    names, consumers = _names(propagation, members), _consumers(propagation)
    return tuple(
        Group(
            names[variable],
            _kind(variable),
            variable.size,
            variable,
            tuple(found),
            outers.get(variable),
            consumers[variable],
            min(propagation.needed.get(variable, 1), variable.size),
        )
        for variable, found in members.items()
    )


def _consumers(propagation: Propagation) -> Counter[Variable]:
    """Number of contractions that sum over each variable."""
    found: Counter[Variable] = Counter()
    for node, mixed in propagation.mixed.items():
        rule = find_rule(node.target)
        if rule is not None and rule.role is Role.CONTRACTION:
            found.update({variable for axis in mixed for variable in variables_of(axis)})
    return found


def _members(program: Program, propagation: Propagation) -> dict[Variable, list[Member]]:
    """Free variables with the tensor axes that hold them; only those on at least one axis of a parameter."""
    found: dict[Variable, list[Member]] = {}
    for name, axes in propagation.tensors.items():
        for dim, axis in enumerate(axes):
            for variable in dict.fromkeys(variables_of(axis)):
                if variable.pin is None and variable.size > 1:
                    found.setdefault(variable, []).append(Member(name, dim))
    stateful = {name for name in program.tensors if name not in program.buffers}
    return {variable: own for variable, own in found.items() if any(member.name in stateful for member in own)}


def find_nesting(propagation: Propagation, variables: set[Variable]) -> dict[Variable, Variable]:
    """For each variable the one under which its choice may be nested, where there is one."""
    alone = {axes[0] for axes in propagation.tensors.values() if len(axes) == 1 and isinstance(axes[0], Variable)}
    possible = variables - alone  # what stands alone in a bias or a norm has nothing beside it to be chosen under
    candidates: dict[Variable, set[Variable]] = {}
    order = {leaf: None for axes in propagation.tensors.values() for axis in axes for leaf in variables_of(axis)}
    for axes in propagation.tensors.values():
        for variable, companions in _companions(axes, possible, sayable=True):
            known = candidates.get(variable)
            candidates[variable] = set(companions) if known is None else known & companions
    candidates = {variable: found for variable, found in candidates.items() if found}
    for axes in _value_axes(propagation) if candidates else ():
        for variable, companions in _companions(axes, candidates.keys()):
            candidates[variable] &= companions
    candidates = {variable: found for variable, found in candidates.items() if found}
    for node, mixed in propagation.mixed.items() if candidates else ():
        touched = _touched(propagation, node)
        _forbid_mixing(candidates, mixed, touched)
        for variable in touched & candidates.keys():
            candidates[variable] -= _doubled(propagation.values.get(node))
    ordered = {variable: [each for each in order if each in found] for variable, found in candidates.items() if found}
    chosen = {variable: _closest(found, variables) for variable, found in ordered.items() if found}
    return _without_chains(chosen)


def _value_axes(propagation: Propagation) -> Iterator[Axes]:
    seen = set[Axes]()
    for value in propagation.values.values():
        for axes in (value,) if isinstance(value, TensorAxes) else value or ():
            if axes is not None and axes not in seen:
                seen.add(axes)
                yield axes


def _companions(
    axes: Axes, variables: AbstractSet[Variable], *, sayable: bool = False
) -> Iterator[tuple[Variable, frozenset[Variable]]]:
    """For each occurrence of a variable the variables whose index is known there.

    Of a tensor that a plan slices only those under which a plan can say a choice (`sayable`): a list of lists speaks
    of consecutive blocks of the first other dimension, so of the leading factor there.
    """
    if all(variables.isdisjoint(variables_of(axis)) for axis in axes):
        return
    known = [_leading(axis) if sayable else _coordinates(axis) for axis in axes]
    counts = Counter(variable for axis in axes for variable in variables_of(axis))
    for at, axis in enumerate(axes):
        others = [each for other, each in enumerate(known) if other != at]
        elsewhere = frozenset().union(*(others[:1] if sayable else others))
        for variable, before in occurrences(axis, frozenset()):
            if variable in variables:
                companions = before | elsewhere
                yield (
                    variable,
                    frozenset(each for each in companions if counts[each] == 1 and each.size > 1) - {variable},
                )


def variables_of(axis: Axis) -> tuple[Variable, ...]:
    """Variables of a settled axis, in order, with repetition."""
    return (axis,) if isinstance(axis, Variable) else axis.variables or tuple(leaves(axis))


def _coordinates(axis: Axis) -> frozenset[Variable]:
    if isinstance(axis, Variable):
        return frozenset({axis})
    if isinstance(axis, Product):
        return frozenset(factor for factor in axis.factors if isinstance(factor, Variable))
    return frozenset()


def _leading(axis: Axis) -> frozenset[Variable]:
    """The variable that changes slowest along a settled axis."""
    first = axis.factors[0] if isinstance(axis, Product) else axis
    return frozenset({first}) if isinstance(first, Variable) else frozenset()


def occurrences(axis: Axis, before: frozenset[Variable]) -> Iterator[tuple[Variable, frozenset[Variable]]]:
    """Each variable of a settled axis, with those that it is counted within there: `before`, and the factors ahead."""
    if isinstance(axis, Variable):
        yield axis, before
        return
    for child in axis.factors if isinstance(axis, Product) else axis.parts:
        yield from occurrences(child, before)
        if isinstance(axis, Product) and isinstance(child, Variable):
            before |= {child}


def _touched(propagation: Propagation, node: object) -> set[Variable]:
    """Variables of an operation's arguments and results."""
    found = set[Variable]()
    for each in (node, *node.all_input_nodes):  # type: ignore[attr-defined]
        value = propagation.values.get(each)
        for axes in (value,) if isinstance(value, TensorAxes) else value or ():
            for axis in axes or ():
                found.update(variables_of(axis))
    return found


def _forbid_mixing(candidates: dict[Variable, set[Variable]], mixed: Axes, touched: set[Variable]) -> None:
    """An operation that mixes along g but not along v, with v present, forbids choosing v anew for each g."""
    along = {variable for axis in mixed for variable in variables_of(axis)}
    for variable in touched & candidates.keys():
        if variable not in along:
            candidates[variable] -= along


def _doubled(value: Any) -> set[Variable]:
    """Variables that stand on two axes of a result: which of the two indices a choice goes by, no one can say.

    In b[i, v] a[v, j] with i and j alike, b's choice of v would go by i, a's by j.
    """
    return {
        variable
        for axes in ((value,) if isinstance(value, TensorAxes) else value or ())
        for variable, count in Counter(each for axis in axes or () for each in variables_of(axis)).items()
        if count > 1
    }


def _closest(found: Sequence[Variable], variables: set[Variable]) -> Variable:
    """One candidate: prunable ones first, then the smallest (the outermost structure); any of them is correct."""
    return min(found, key=lambda each: (each not in variables, each.size))


def _without_chains(chosen: Mapping[Variable, Variable]) -> dict[Variable, Variable]:
    """Nesting is one level deep: what is an outer variable itself is not nested."""
    outers = set(chosen.values())
    return {variable: outer for variable, outer in chosen.items() if variable not in outers}


def _kind(variable: Variable) -> str:
    return variable.kind or "features"


def _names(propagation: Propagation, members: Mapping[Variable, list[Member]]) -> dict[Variable, str]:
    owners = {variable: _owner(propagation, found) for variable, found in members.items()}
    shared = Counter(owners.values())
    names = {v: owner if shared[owner] == 1 else f"{owner}:{_kind(v)}" for v, owner in owners.items()}
    counts, seen = Counter(names.values()), Counter[str]()
    for variable, name in names.items():
        if counts[name] > 1:
            seen[name] += 1
            names[variable] = f"{name}#{seen[name]}"
    return names


def _owner(propagation: Propagation, members: list[Member]) -> str:
    """Module that produces the indices: of the first matrix whose rows they are, else of the first tensor."""
    ranks = {member.name: len(propagation.tensors[member.name]) for member in members}
    rows = [member.name for member in members if member.dim == 0 and ranks[member.name] > 1]
    matrices = [member.name for member in members if ranks[member.name] > 1]
    first_row, first_matrix = rows[:1], matrices[:1]
    embedded = first_matrix and "embed" in first_matrix[0].lower()
    name = (first_matrix if embedded else first_row or first_matrix or [members[0].name])[0]
    return name.removesuffix(".weight")
