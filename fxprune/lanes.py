"""The picture of what belongs together: a line for every module, a vertical lane for every dependency group.

Modules stand in the order of execution. A group is a lane from the first module that it touches to the last, with a
filled stop where the module makes the group's indices (rows of a convolution), an open one where it takes them
(columns), a square where it passes them on (a depthwise convolution). Lanes that do not overlap share a column, so
that a residual stream is one long lane and the inner widths of its blocks are short ones beside it. A layout from
forces or ranks puts the same facts into a tangle once a model has fifty layers; this one stays readable, and it is
the same every time.

Tensors of one dimension (norms, biases) follow the others and are left out, unless a group has nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch.fx import Node

from fxprune.axes import Variable, leaves
from fxprune.coupling import owner_of
from fxprune.groups import Group, Member
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.rules.elementwise import TensorAxes
from fxprune.summary import KERNEL, GroupFacts, Summary, summarise

if TYPE_CHECKING:
    from fxprune.analysis import Analysis

Role = Literal["makes", "takes", "passes"]


@dataclass(frozen=True, slots=True)
class Row:
    """One module (or bare parameter), with what is pinned in it."""

    name: str
    kind: str
    pinned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a lane touches a row, and what the module does there."""

    row: int
    role: Role


@dataclass(frozen=True, slots=True)
class Lane:
    """One dependency group in its column."""

    facts: GroupFacts
    column: int
    stops: tuple[Stop, ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """Everything that the picture shows."""

    summary: Summary
    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]

    @property
    def columns(self) -> int:
        """Number of columns that the lanes take."""
        return max((lane.column for lane in self.lanes), default=-1) + 1


def lay_out(analysis: Analysis) -> Lanes:
    """Arrange modules in rows and groups in columns."""
    program, propagation = analysis.program, analysis.propagation
    summary = summarise(analysis)
    users, row_of = _first_users(program), rows_of(program, propagation)
    shown = _shown(analysis)
    names = list(dict.fromkeys(row_of[tensor] for tensor in users if tensor in shown))
    index = {name: at for at, name in enumerate(names)}
    places = {name: index[row] for name, row in row_of.items() if row in index}
    stops = [_stops(propagation, group, users, places) for group in analysis.groups]
    columns = _columns([(found[0].row, found[-1].row) for found in stops])
    pinned = _pinned(propagation, row_of)
    rows = tuple(Row(name, _type_of(program, name), pinned.get(name, ())) for name in names)
    found = zip(summary.groups, columns, stops, strict=True)
    return Lanes(summary, rows, tuple(Lane(facts, column, own) for facts, column, own in found))


def rows_of(program: Program, propagation: Propagation) -> dict[str, str]:
    """The row of each parameter and buffer: its module, or itself where other modules are inside that module."""
    outer = {path.rpartition(".")[0] for path in program.module_types if path} | {""}
    names = [name for name in propagation.tensors if name not in program.constants]
    return {name: name if owner_of(name) in outer else owner_of(name) for name in names}


def _first_users(program: Program) -> dict[str, Node]:
    """Canonical name of each tensor -> the first operation that reads it, in the order of execution."""
    found: dict[str, Node] = {}
    for node in program.nodes:
        if node.op == "call_function":
            for each in node.all_input_nodes:
                if each.op == "get_attr":
                    found.setdefault(program.canonical(str(each.target)), node)
    return found


def _shown(analysis: Analysis) -> set[str]:
    """Tensors that get a row: matrices, and whatever a group without matrices has."""
    axes, constants = analysis.propagation.tensors, analysis.program.constants
    shown = {name for name in axes if name not in constants and len(axes[name]) > 1}
    for group in analysis.groups:
        names = {member.name for member in group.members} - constants.keys()
        if shown.isdisjoint(names):
            shown |= names
    return shown


def _stops(
    propagation: Propagation, group: Group, users: Mapping[str, Node], places: Mapping[str, int]
) -> tuple[Stop, ...]:
    roles: dict[int, set[Role]] = {}
    for member in group.members:
        row = places.get(member.name)
        if row is not None:
            roles.setdefault(row, set()).add(_role(propagation, member, group.variable, users[member.name]))
    return tuple(Stop(row, _one(found)) for row, found in sorted(roles.items()))


def _role(propagation: Propagation, member: Member, variable: Variable, user: Node) -> Role:
    """What the operation that reads the tensor does: told by which of its operands and result hold the variable."""
    others = [each for each in user.all_input_nodes if each.op != "get_attr"]
    after, before = _holds(propagation, user, variable), any(_holds(propagation, each, variable) for each in others)
    if after and before:
        return "passes" if _alone(propagation, member, variable) else "makes"
    if after or before:
        return "makes" if after else "takes"
    return "makes" if member.dim == 0 else "takes"


def _alone(propagation: Propagation, member: Member, variable: Variable) -> bool:
    """Whether no other dimension of the tensor meets the operation's input: it is scaled or filtered index by index."""
    axes = propagation.tensors[member.name]
    others = [leaf for dim, axis in enumerate(axes) if dim != member.dim for leaf in leaves(axis)]
    return variable not in others and all(leaf.size == 1 or (leaf.pin and leaf.pin.reason == KERNEL) for leaf in others)


def _holds(propagation: Propagation, node: Node, variable: Variable) -> bool:
    value = propagation.values.get(node)
    results = (value,) if isinstance(value, TensorAxes) else value or ()
    return any(variable in leaves(axis) for axes in results if axes is not None for axis in axes)


def _one(roles: set[Role]) -> Role:
    """A module that both takes and makes the indices passes them on, as far as the picture goes."""
    return next(iter(roles)) if len(roles) == 1 else "passes"


def _columns(spans: Iterable[tuple[int, int]]) -> list[int]:
    """First free column for each span, earliest first: the fewest columns there can be."""
    ordered = sorted(enumerate(spans), key=lambda each: (each[1][0], -each[1][1]))
    ends: list[int] = []
    chosen: dict[int, int] = {}
    for at, (start, end) in ordered:
        column = next((place for place, last in enumerate(ends) if last < start), len(ends))
        ends[column:] = [end, *ends[column + 1 :]]
        chosen[at] = column
    return [chosen[at] for at in range(len(chosen))]


def _type_of(program: Program, name: str) -> str:
    found = program.module_types.get(name)
    return "parameter" if found is None else found.__name__


def _pinned(propagation: Propagation, row_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What stays in each row, as `1000: model output`; kernels are left out."""
    found: dict[str, dict[str, None]] = {}
    for name, row in row_of.items():
        for leaf in (leaf for axis in propagation.tensors[name] for leaf in leaves(axis)):
            if leaf.pin is not None and leaf.pin.reason != KERNEL and leaf.size > 1:
                found.setdefault(row, {})[f"{leaf.size}: {leaf.pin.reason}"] = None
    return {row: tuple(texts) for row, texts in found.items()}
