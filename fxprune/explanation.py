"""Why two axes belong together, and why an axis is pinned: shortest paths in the coupling graph, told step by step.

Axes are named as the coupling graph names them (`layer1.0.conv1.weight[0]`), with a colon
(`layer1.0.conv1.weight:0`), or by the tensor or module alone, which stands for all its axes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError

if TYPE_CHECKING:
    import networkx as nx

_AXIS = re.compile(r"^(?P<tensor>.+?)(?::(?P<colon>-?\d+)|\[(?P<bracket>-?\d+)\])$")
_SILENT = frozenset({"getitem", "alias", "detach", "contiguous"})


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on the way from one axis to another.

    Attributes:
        operation: name of the node in the captured graph.
        op: what it does: conv2d, add, ...
        module: path of the module that it runs in.
        source: the user's own `file:line`, or None.
        code: that line.
        joins: whether it brings several activations together, as a residual connection does.
        reached: the axis that it leads to.
    """

    operation: str
    op: str
    module: str
    source: str | None
    code: str | None
    joins: bool
    reached: str

    @property
    def label(self) -> str:
        """The operation as a person would call it."""
        return f"{self.op} (residual)" if self.joins and self.op.rstrip("_") in ("add", "iadd", "__iadd__") else self.op


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why two axes hold the same indices.

    Attributes:
        source: where the path starts.
        target: where it ends.
        indices: what they share, for example `64 channels`.
        group: name of the dependency group, or None where the axes are pinned.
        steps: the operations on the way.
    """

    source: str
    target: str
    indices: str
    group: str | None
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        """One line an operation, from one axis to the other."""
        group = f" (group {self.group})" if self.group else " (pinned)"
        title = f"{self.source} and {self.target} are the same {self.indices}{group}:"
        return "\n".join([title, f"  {self.source}", *_lines(self.steps, self.target), f"  {self.target}"])


@dataclass(frozen=True, slots=True)
class PinnedAxis:
    """Why one axis keeps its size.

    Attributes:
        axis: its name.
        indices: what it holds, for example `1000 features`.
        reason: why they stay.
        operation: name of the operation that asks for it, or None.
        steps: the operations from the axis to where the reason arose; empty where it arose on the axis itself.
    """

    axis: str
    indices: str
    reason: str
    operation: str | None
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        """The reason, and the way there."""
        by = f" (operation {self.operation})" if self.operation else ""
        title = f"{self.axis} keeps its {self.indices}: {self.reason}{by}"
        end = self.steps[-1].reached if self.steps else self.axis
        return "\n".join([title, *([f"  {self.axis}"] if self.steps else []), *_lines(self.steps, end)])


@dataclass(frozen=True, slots=True)
class PinExplanation:
    """Why the axes of a tensor keep their sizes."""

    axes: tuple[PinnedAxis, ...]

    def __str__(self) -> str:
        """One paragraph an axis."""
        return "\n".join(map(str, self.axes))


def why(graph: nx.MultiGraph[Any], a: str, b: str) -> Explanation:
    """Explain why two axes are kept or cut together.

    Args:
        graph: the coupling graph.
        a: an axis (`layer1.0.conv1.weight[0]` or `layer1.0.conv1.weight:0`), or a tensor or module for all of its axes.
        b: the same.

    Returns:
        The shortest chain of operations between them; `str()` of it is meant to be read.

    Raises:
        InputError: a name is unknown, or the two are not coupled.

    Example:
        >>> from torch import nn, randn
        >>> from fxprune.capture import capture
        >>> from fxprune.coupling import coupling_graph
        >>> from fxprune.propagate import propagate
        >>> program = capture(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), randn(2, 8))
        >>> print(why(coupling_graph(program, propagate(program, {})), "0.bias", "2.weight:1"))
        0.bias[0] and 2.weight[1] are the same 32 features (group 0):
          0.bias[0]
            -> linear  0
            -> relu    1
            -> linear  2
          2.weight[1]
    """
    import networkx as nx

    sources, targets = find_axes(graph, a), find_axes(graph, b)
    ends = [name for name in targets if name not in sources]
    if not ends:
        raise InputError(f"{a} and {b} name the same axis")
    lengths, paths = nx.multi_source_dijkstra(graph, set(sources))
    reached = [name for name in ends if name in lengths]
    if not reached:
        raise InputError(_not_coupled(graph, sources, ends))
    path = paths[min(reached, key=lambda name: lengths[name])]
    attributes = graph.nodes[path[-1]]
    return Explanation(path[0], path[-1], _indices(attributes), attributes["group"], _steps(graph, path))


def why_pinned(graph: nx.MultiGraph[Any], name: str) -> PinExplanation:
    """Explain why an axis keeps its size.

    Args:
        graph: the coupling graph.
        name: an axis, or a tensor or module for all of its axes.

    Returns:
        For each pinned axis the reason, the operation that asks for it, and the way there.

    Raises:
        InputError: the name is unknown, or nothing of it is pinned.
    """
    axes = find_axes(graph, name)
    pinned = [each for each in axes if graph.nodes[each]["pinned"] is not None]
    if not pinned:
        raise InputError(f"{name} is not pinned: " + "; ".join(_status(graph, each) for each in axes))
    return PinExplanation(tuple(_explain_pin(graph, each) for each in pinned))


def find_axes(graph: nx.MultiGraph[Any], name: str) -> list[str]:
    """Nodes of the coupling graph that a name stands for.

    Raises:
        InputError: there are none; the message suggests names that are close.
    """
    if name in graph:
        return [name]
    tensor, dim = _parse(name)
    canonical = graph.graph["aliases"].get(tensor, tensor)
    own = [each for each, at in graph.nodes(data=True) if at["tensor"] == canonical]
    if not own:
        own = [each for each, at in graph.nodes(data=True) if at["kind"] != "value" and _inside(at["module"], tensor)]
    if not own:
        raise InputError(_unknown(graph, tensor))
    if dim is None:
        return own
    found = [each for each in own if graph.nodes[each]["dim"] == dim]
    if not found:
        raise InputError(f"{tensor} has no axis {dim} with more than one index; it has {', '.join(own)}")
    return found


def _parse(name: str) -> tuple[str, int | None]:
    match = _AXIS.match(name)
    return (match["tensor"], int(match["colon"] or match["bracket"])) if match else (name, None)


def _inside(module: str, path: str) -> bool:
    return module == path or module.startswith(f"{path}.")


def _unknown(graph: nx.MultiGraph[Any], tensor: str) -> str:
    own = [at for _, at in graph.nodes(data=True) if at["kind"] != "value"]
    tensors = sorted({at["tensor"] for at in own} | graph.graph["aliases"].keys())
    close = difflib.get_close_matches(tensor, [*tensors, *sorted({at["module"] for at in own})], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"names are, for example, {', '.join(tensors[:3])}"
    return f"{graph.graph['model']} reads no parameter, buffer or module named {tensor!r}; {hint}"


def _not_coupled(graph: nx.MultiGraph[Any], sources: Sequence[str], targets: Sequence[str]) -> str:
    lines = "\n".join(f"  {_status(graph, each)}" for each in (*sources, *targets))
    return f"no chain of operations couples these axes:\n{lines}"


def _status(graph: nx.MultiGraph[Any], name: str) -> str:
    at = graph.nodes[name]
    state = f"group {at['group']}" if at["group"] else f"pinned: {at['pinned']}" if at["pinned"] else "free"
    return f"{name} ({_indices(at)}, {state})"


def _explain_pin(graph: nx.MultiGraph[Any], axis: str) -> PinnedAxis:
    import networkx as nx

    at = graph.nodes[axis]
    lengths, paths = nx.single_source_dijkstra(graph, axis)
    origins = [each for each in lengths if graph.nodes[each]["pinned_here"]]
    path = paths[min(origins, key=lambda each: lengths[each])] if origins else [axis]
    return PinnedAxis(axis, _indices(at), at["pinned"], at["pinned_by"], _steps(graph, path))


def _indices(attributes: Any) -> str:
    return f"{attributes['size']} {attributes['indices']}"


def _steps(graph: nx.MultiGraph[Any], path: Sequence[str]) -> tuple[Step, ...]:
    """One step an operation: the two edges that lead through the hub of one star are one step."""
    found: list[Step] = []
    for here, there in pairwise(path):
        edges = list(graph[here][there].values())
        same = [edge for edge in edges if found and edge["operation"] == found[-1].operation]
        edge = (same or edges)[0]
        if same:
            found.pop()
        found.append(Step(**edge, reached=there))
    return tuple(found)


def _lines(steps: Sequence[Step], target: str) -> list[str]:
    """The operations in columns, with the parameters between them on lines of their own."""
    shown = [step for step in steps if step.op not in _SILENT or step is steps[-1]]
    widths = [max((len(text) for text in column), default=0) for column in zip(*map(_cells, shown), strict=True)]
    lines: list[str] = []
    for step in shown:
        cells = [cell.ljust(width) for cell, width in zip(_cells(step), widths, strict=True)]
        lines.append(f"    -> {'  '.join(cells)}".rstrip())
        if not step.reached.startswith("%") and step.reached != target:
            lines.append(f"  {step.reached}")
    return lines


def _cells(step: Step) -> tuple[str, str, str]:
    where = "" if step.source is None else f"{step.source}: {step.code}" if step.code else step.source
    return step.label, step.module or "(the model itself)", where
