"""Raise: put `torch.nn` modules back where the graph has a leaf module's one operation.

A call such as `conv2d(x, P.weight, P.bias, ...)` becomes a call of an `nn.Conv2d` named P, whatever class P had, when
P holds no other tensors and is only ever used that way; its settings are read off the call's own arguments, so the
module computes what the graph says. Activations, pooling and dropout are raised where P is exactly the `torch.nn`
class of the operation. Dropout that a model calls as a function (`F.dropout(x, p, self.training)`) becomes a module
too, since the graph, captured in eval mode, would otherwise never drop anything in training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from fxprune.passes.module_table import FUNCTIONS, LAYERS, Call
from fxprune.program import Program

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """A `torch.nn` module without its tensors: what is needed to build it anywhere.

    Attributes:
        kind: class name in `torch.nn`.
        settings: arguments of its constructor.
    """

    kind: str
    settings: Mapping[str, Any]

    def build(self) -> nn.Module:
        """A new module on the meta device; its tensors are set by the caller."""
        constructor = getattr(nn, self.kind)
        built: nn.Module = constructor(**self.settings)
        return built


def raise_modules(graph: Graph, program: Program, tensors: Mapping[str, Tensor]) -> dict[str, ModuleSpec]:
    """Turn operations into module calls, in place.

    Args:
        graph: a slim graph that the caller owns.
        program: the captured original, for the names and classes of its modules.
        tensors: the slim parameters and buffers by name.

    Returns:
        The modules that the graph now calls, by path.
    """
    specs = _raise_layers(graph, program, tensors)
    specs.update(_raise_functions(graph, program, specs))
    specs.update(_raise_dropout(graph, program))
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return specs


def _raise_layers(graph: Graph, program: Program, tensors: Mapping[str, Tensor]) -> dict[str, ModuleSpec]:
    """Operations with parameters, by the module that holds them."""
    calls: dict[str, list[tuple[Node, ModuleSpec]]] = defaultdict(list)
    for node in graph.nodes:
        layer = LAYERS.get(node.target) if node.op == "call_function" else None
        call = None if layer is None else Call.of(node, program, tensors, layer.tensors)
        settings = None if layer is None or call is None else layer.settings(call)
        if layer is not None and call is not None and settings is not None and _says_all(settings):
            calls[call.path].append((node, ModuleSpec(layer.kind(call), settings)))
    specs: dict[str, ModuleSpec] = {}
    for path, found in calls.items():
        if all(spec == found[0][1] for _, spec in found) and _owns_all(path, found, graph, program, tensors):
            specs[path] = found[0][1]
            for node, _ in found:
                _call_module(graph, node, path)
    return specs


def _says_all(settings: Mapping[str, Any]) -> bool:
    """Whether settings are plain values; a size that is computed as the graph runs is no setting of a module."""
    return not any(isinstance(each, Node) for each in tree_leaves(dict(settings)))


def _owns_all(
    path: str, calls: list[tuple[Node, ModuleSpec]], graph: Graph, program: Program, tensors: Mapping[str, Tensor]
) -> bool:
    """Whether the module's tensors are exactly those of the operation, and nothing else reads them."""
    nodes = [node for node, _ in calls]
    own = {name for name in tensors if name.rpartition(".")[0] == path}
    layer = LAYERS[nodes[0].target]
    if {name.rpartition(".")[2] for name in own} - {*layer.tensors.values(), "num_batches_tracked"}:
        return False
    sources = [node for node in graph.nodes if node.op == "get_attr" and program.canonical(str(node.target)) in own]
    return {user for node in sources for user in node.users} <= set(nodes)


def _raise_functions(graph: Graph, program: Program, taken: Mapping[str, ModuleSpec]) -> dict[str, ModuleSpec]:
    """Operations without parameters, where the module is exactly the `torch.nn` class of the operation."""
    calls: dict[str, list[tuple[Node, ModuleSpec]]] = defaultdict(list)
    for node in graph.nodes:
        if node.op != "call_function" or (path := module_path(node)) is None or path in taken:
            continue
        path = program.module_aliases.get(path, path)
        kind = program.module_types.get(path)
        function = FUNCTIONS.get((kind, node.target)) if kind is not None else None
        if function is not None and kind is not None and _says_all(settings := function(node)):
            calls[path].append((node, ModuleSpec(kind.__name__, settings)))
    specs: dict[str, ModuleSpec] = {}
    for path, found in calls.items():
        if all(spec == found[0][1] for _, spec in found):
            specs[path] = found[0][1]
            for node, _ in found:
                _call_module(graph, node, path)
    return specs


def _raise_dropout(graph: Graph, program: Program) -> dict[str, ModuleSpec]:
    """Dropout called as a function, with a probability above zero; what drops in eval mode too, as it was captured, stays."""
    specs: dict[str, ModuleSpec] = {}
    for node in list(graph.nodes):
        dropout = node.target in (aten.dropout.default, aten.dropout_.default)
        if not dropout or not node.args[1] or node.args[2]:
            continue
        name = next(each for index in count() if (each := f"dropout_{index}_") not in {*specs, *program.module_types})
        specs[name] = ModuleSpec("Dropout", {"p": node.args[1]})
        _call_module(graph, node, name)
    return specs


def module_path(node: Node) -> str | None:
    """Path of the innermost module that the operation came from, in the original's own names."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path = str(list(stack.values())[-1][0]).partition("@")[0]
    return path.removeprefix("L['self'].").removeprefix("L__self__")


def _call_module(graph: Graph, node: Node, path: str) -> None:
    with graph.inserting_before(node):
        call = graph.call_module(path, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
