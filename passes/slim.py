"""The rewrite: emit the graph of the slim model and its tensors.

Every parameter, buffer and constant is sliced to the kept positions of its axes; every argument that speaks of a size
follows its axis (the `resize` of the operation's rule); everything else is copied. The original graph and its tensors
are not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from fxprune.axes import Axes
from fxprune.cut import Cut
from fxprune.errors import FxpruneError, RewriteError
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.rules import Resizing, find_rule
from fxprune.rules.elementwise import TensorAxes


@dataclass(frozen=True, slots=True)
class SlimGraph:
    """A graph without a module around it.

    Attributes:
        graph: operations as `call_function`, tensors as `get_attr`; `node.meta["origin"]` is the original node.
        tensors: every parameter and buffer by name (tied ones are one object under several names).
        constants: folded constants by name.
    """

    graph: Graph
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, Tensor | nn.Module]


def slim_graph(program: Program, propagation: Propagation, cut: Cut) -> SlimGraph:
    """Emit the slim model.

    Args:
        program: the captured original.
        propagation: axes of its values and tensors.
        cut: what is kept.

    Raises:
        RewriteError: an operation's arguments could not be rewritten.
    """
    return SlimGraph(
        graph=emit(program, propagation, cut),
        tensors=slim_tensors(program, propagation, cut),
        constants={
            name: _slice(tensor, propagation.tensors.get(name), cut) if isinstance(tensor, Tensor) else tensor
            for name, tensor in program.constants.items()
        },
    )


def slim_tensors(program: Program, propagation: Propagation, cut: Cut) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, sliced; tied ones stay one object."""
    made: dict[str, Tensor] = {}
    for name, tensor in program.tensors.items():
        canonical = program.canonical(name)
        if canonical not in made:
            sliced = _slice(tensor, propagation.tensors.get(canonical), cut)
            made[canonical] = nn.Parameter(sliced, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else sliced
        made[name] = made[canonical]
    return {name: made[name] for name in program.tensors}


def _slice(tensor: Tensor, axes: Axes | None, cut: Cut) -> Tensor:
    """A copy of what is kept, in the tensor's own memory format; what the graph does not read is kept whole."""
    source = tensor.detach()
    kept = source if axes is None else cut.slice(source, axes)
    if kept is source:
        return source.clone()
    return kept.contiguous(memory_format=torch.channels_last) if _is_channels_last(source) else kept.contiguous()


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def emit(program: Program, propagation: Propagation, cut: Cut) -> Graph:
    """The graph with its sizes as cut; `node.meta["origin"]` is the original node."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in program.graph_module.graph.nodes:
        copies[node] = emit_node(graph, node, copies, propagation, cut)
    graph.eliminate_dead_code()
    graph.lint()
    return graph


def emit_node(graph: Graph, node: Node, copies: Mapping[Node, Node], propagation: Propagation, cut: Cut) -> Node:
    """Copy one node behind what is there, with its sizes as cut; `copies` knows its inputs."""
    copy = graph.node_copy(node, lambda each: copies[each])
    if node.op == "call_function" and _is_touched(node, propagation, cut):
        _resize(copy, node, propagation, cut, graph)
    copy.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
    copy.meta["origin"] = node
    return copy


def origins_of(node: Node) -> tuple[Node, ...]:
    """The nodes of the original whose value a node of an emitted graph has: its own, and views of it that were left out."""
    own = node.meta.get("origin")
    return () if own is None else (own, *node.meta.get("views", ()))


def _resize(copy: Node, node: Node, propagation: Propagation, cut: Cut, graph: Graph) -> None:
    """Rewrite the size arguments of one operation; arithmetic on symbolic sizes goes before it."""
    rule = find_rule(node.target)
    if rule is None or rule.resize is None:
        return
    with graph.inserting_before(copy):
        resizing = Resizing(node, copy.args, dict(copy.kwargs), propagation.values, cut.count, graph)
        try:
            copy.args, copy.kwargs = rule.resize(resizing)
        except FxpruneError:
            raise
        except Exception as error:
            msg = f"the sizes of {node.target} could not be rewritten: {type(error).__name__}: {error}"
            raise RewriteError(msg, node) from error
    if rule.resized is not None:
        copy.target = rule.resized


def _is_touched(node: Node, propagation: Propagation, cut: Cut) -> bool:
    """Whether an axis of the operation's result or of an operand loses an index."""
    return any(cut.touches(axes) for each in (node, *node.all_input_nodes) for axes in axes_of(propagation, each))


def axes_of(propagation: Propagation, node: Node) -> list[TensorAxes]:
    """Axes of each tensor that a node yields."""
    value: Any = propagation.values.get(node)
    if value is None:
        return []
    return [value] if isinstance(value, TensorAxes) else [axes for axes in value if axes is not None]
