"""The coupling graph: which axes of which tensors hold the same indices, and which operation made it so.

Nodes are axes, one per variable that an axis is made of, named so that they can be read and typed:

    layer1.0.conv1.weight[0]       dimension 0 of a parameter, buffer or folded constant
    attn.qkv.weight[0].1           the second variable of a dimension that is a product or a concatenation
    %add_3[1]                      dimension 1 of what the operation add_3 of the captured graph returns
    %split:0[1]                    the same of the first of several results

Edges are operations. The graph is read off the settled axes: an operation couples those axes of its arguments and
results that hold the same variable, as a star around the result (around the first argument where the result does not
hold the variable), so that the graph stays linear in the size of the model. Its connected components that hold a free
variable on an axis of a parameter are the dependency groups. Axes of size 1 are left out: there is nothing to cut in
them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from fxprune.axes import Axes, Variable, leaves
from fxprune.groups import find_groups
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.rules.elementwise import TensorAxes

if TYPE_CHECKING:
    import networkx as nx

_TORCH = f"{Path(torch.__file__).parent}/"


@dataclass(frozen=True, slots=True)
class Place:
    """One variable on one axis: a node of the coupling graph."""

    tensor: str
    dim: int
    factor: int | None
    variable: Variable

    @property
    def name(self) -> str:
        """The node's name."""
        suffix = "" if self.factor is None else f".{self.factor}"
        return f"{self.tensor}[{self.dim}]{suffix}"


@dataclass(frozen=True, slots=True)
class SourceLine:
    """The user's own line that an operation comes from."""

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        """As `resnet.py:92`."""
        return f"{Path(self.file).name}:{self.line}"


def coupling_graph(program: Program, propagation: Propagation) -> nx.MultiGraph[Any]:
    """Build the coupling graph of a captured model.

    Args:
        program: the captured model.
        propagation: the axes of its values.

    Returns:
        A `networkx.MultiGraph`. Node attributes: `tensor`, `dim`, `factor` (None for a plain axis), `kind`
        (`parameter`, `buffer`, `constant` or `value`), `size`, `indices` (what they are: channels, heads, ...), `group`
        (name of the dependency group, or None), `module` (path of the owner), `pinned` (the reason, or None),
        `pinned_by` (the operation that asked for it), `pinned_here` (whether that operation reads or makes this very
        axis). Edge attributes: `operation` (name of the node in the captured graph), `op` (`conv2d`, `add`, ...),
        `module`, `source` (`file:line`, or None), `code` (that line), `joins` (whether the operation brings several
        activations together).

    Example:
        >>> from torch import nn, randn
        >>> from fxprune.capture import capture
        >>> from fxprune.propagate import propagate
        >>> program = capture(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), randn(2, 8))
        >>> graph = coupling_graph(program, propagate(program, {}))
        >>> sorted(name for name, group in graph.nodes(data="group") if group == "0" and not name.startswith("%"))
        ['0.bias[0]', '0.weight[0]', '2.weight[1]']
    """
    import networkx as nx

    graph: nx.MultiGraph[Any] = nx.MultiGraph(model=program.root.__name__, aliases=dict(program.aliases))
    groups = {group.variable: group.name for group in find_groups(program, propagation)}
    reader = _Reader(program, propagation)
    for tensor, axes in propagation.tensors.items():
        kind = _kind_of(program, tensor)
        for place in places(tensor, axes):
            graph.add_node(place.name, **_describe(place, groups), kind=kind, module=owner_of(tensor))
    for node in program.nodes:
        if node.op in ("call_function", "placeholder"):
            for place in reader.results(node):
                graph.add_node(place.name, **_describe(place, groups), kind="value", module=module_of(node))
        if node.op == "call_function":
            graph.add_edges_from(_edges(node, reader))
        _mark_pins(graph, node, (*reader.operands(node), *reader.results(node)))
    return graph


def places(tensor: str, axes: Axes) -> Iterator[Place]:
    """The nodes that the axes of one tensor become."""
    for dim, axis in enumerate(axes):
        found = list(leaves(axis))
        for factor, variable in enumerate(found):
            if variable.size > 1:
                yield Place(tensor, dim, factor if len(found) > 1 else None, variable)


class _Reader:
    """Looks up the places that an operation reads and makes."""

    __slots__ = ("program", "propagation")

    def __init__(self, program: Program, propagation: Propagation) -> None:
        self.program = program
        self.propagation = propagation

    def results(self, node: Node) -> tuple[Place, ...]:
        """Places of what a node returns; those of the tensor itself where the node fetches a parameter."""
        value = self.propagation.values.get(node)
        if value is None:
            return ()
        if node.op == "get_attr":
            name = self.program.canonical(str(node.target))
            return tuple(places(name, self.propagation.tensors[name]))
        if isinstance(value, TensorAxes):
            return tuple(places(f"%{node.name}", value))
        return tuple(place for index in range(len(value)) for place in self._one_of(node, value, index))

    def operands(self, node: Node) -> tuple[Place, ...]:
        """Places of all arguments; for `getitem` of the result that it picks."""
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, Node)
            value = self.propagation.values.get(source)
            return () if value is None else tuple(self._one_of(source, value, index))
        return tuple(place for each in node.all_input_nodes for place in self.results(each))

    def _one_of(self, node: Node, value: Any, index: Any) -> Iterator[Place]:
        if value[index] is not None:
            yield from places(f"%{node.name}:{index}", value[index])


def _describe(place: Place, groups: Mapping[Variable, str]) -> dict[str, Any]:
    pin = place.variable.pin
    return {
        "tensor": place.tensor,
        "dim": place.dim,
        "factor": place.factor,
        "size": place.variable.size,
        "indices": place.variable.kind or "features",
        "group": groups.get(place.variable),
        "pinned": None if pin is None else pin.reason,
        "pinned_by": None if pin is None or pin.node is None else pin.node.name,
        "pinned_here": False,
    }


def _edges(node: Node, reader: _Reader) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A star for every variable that at least two places share."""
    results, operands = reader.results(node), reader.operands(node)
    line = user_line(node)
    shared = _by_variable((*results, *operands))
    for variable, names in shared.items():
        label = {
            "operation": node.name,
            "op": operation_name(node),
            "module": module_of(node),
            "source": None if line is None else str(line),
            "code": None if line is None else line.code,
            "joins": _joins(operands, variable),
        }
        yield from ((names[0], other, label) for other in names[1:])


def _by_variable(found: Iterable[Place]) -> dict[Variable, list[str]]:
    shared: dict[Variable, dict[str, None]] = {}
    for place in found:
        shared.setdefault(place.variable, {})[place.name] = None
    return {variable: list(names) for variable, names in shared.items()}


def _joins(operands: Iterable[Place], variable: Variable) -> bool:
    activations = {place.tensor for place in operands if place.variable is variable and place.tensor.startswith("%")}
    return len(activations) > 1


def _mark_pins(graph: nx.MultiGraph[Any], node: Node, touched: Iterable[Place]) -> None:
    for place in touched:
        pin = place.variable.pin
        if pin is not None and pin.node is node:
            graph.nodes[place.name]["pinned_here"] = True


def _kind_of(program: Program, tensor: str) -> str:
    if tensor in program.constants:
        return "constant"
    return "buffer" if tensor in program.buffers else "parameter"


def owner_of(tensor: str) -> str:
    """Path of the module that a tensor belongs to."""
    return tensor.rpartition(".")[0]


def module_of(node: Node) -> str:
    """Path of the innermost module that an operation runs in; empty for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def operation_name(node: Node) -> str:
    """`conv2d` for `aten.conv2d.default`; with the namespace for operations that are not ATen's."""
    if isinstance(node.target, OpOverload):
        space, _, name = node.target._schema.name.partition("::")
        return name if space == "aten" else f"{space}.{name}"
    return getattr(node.target, "__name__", str(node.target))


def user_line(node: Node) -> SourceLine | None:
    """The innermost line of a node's stack trace that is not torch's own."""
    frames = list(_frames(str(node.meta.get("stack_trace") or "")))
    own = [frame for frame in frames if not frame.file.startswith(_TORCH)]
    return own[-1] if own else None


def _frames(trace: str) -> Iterator[SourceLine]:
    lines = [line.strip() for line in trace.splitlines()]
    for index, text in enumerate(lines):
        if not text.startswith('File "'):
            continue
        file, _, rest = text.removeprefix('File "').partition('", line ')
        number = rest.partition(",")[0]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if number.isdigit():
            yield SourceLine(file, int(number), "" if following.startswith('File "') else following)
