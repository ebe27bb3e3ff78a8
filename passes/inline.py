"""Inline regions: `torch.no_grad()` and `torch.autocast(enabled=False)` blocks, which `torch.export` keeps apart.

A region without gradients becomes its operations with its results detached, which is what it means. A region that
switches autocasting off becomes its operations; one that switches it on changes the types inside and stays whole:
what touches it is pinned, like any operation without a rule. Activation checkpointing changes nothing that is
computed, so it is dropped.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

_GRAPH_POSITIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4, "tag_activation_checkpoint": 0}


def inline_regions(graph_module: GraphModule) -> None:
    """Replace regions by their operations, in place, until none is left that can be."""
    inlined = True
    while inlined:
        inlined = sum(_inline(graph_module, node) for node in list(graph_module.graph.nodes) if _is_region(node)) > 0
    graph_module.graph.eliminate_dead_code()
    for name in [name for name, child in graph_module.named_children() if isinstance(child, GraphModule)]:
        if not any(node.op == "get_attr" and node.target == name for node in graph_module.graph.nodes):
            delattr(graph_module, name)
    graph_module.recompile()


def _is_region(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") in _GRAPH_POSITIONS


def _inline(graph_module: GraphModule, node: Node) -> bool:
    """Inline one region; False where it has to stay."""
    kind = getattr(node.target, "__name__", "")
    position = _GRAPH_POSITIONS[kind]
    reference = node.args[position]
    assert isinstance(reference, Node)
    region = graph_module.get_submodule(str(reference.target))
    if not isinstance(region, GraphModule) or (kind == "wrap_with_autocast" and node.args[2]):
        return False
    detached = kind == "wrap_with_set_grad_enabled" and not node.args[0]
    with graph_module.graph.inserting_before(node):
        results = _copy_region(graph_module, region, node.args[position + 1 :])
        results = [_detach(graph_module, each) if detached else each for each in results]
    for user in list(node.users):
        assert user.target is operator.getitem
        index: Any = user.args[1]
        user.replace_all_uses_with(results[index])
        graph_module.graph.erase_node(user)
    graph_module.graph.erase_node(node)
    return True


def _copy_region(graph_module: GraphModule, region: GraphModule, arguments: Sequence[Any]) -> list[Any]:
    """Copy the region's operations before the insertion point; its results in the outer graph."""
    given = iter(arguments)
    copies: dict[Node, Any] = {}
    for node in region.graph.nodes:
        if node.op == "placeholder":
            copies[node] = next(given)
        elif node.op == "output":
            found = torch.fx.node.map_arg(node.args[0], lambda each: copies[each])
            return list(found) if isinstance(found, list | tuple) else [found]
        elif node.op == "get_attr":
            copies[node] = _copy_attribute(graph_module, region, node)
        else:
            copies[node] = graph_module.graph.node_copy(node, lambda each: copies[each])
    msg = "a graph without output"
    raise AssertionError(msg)


def _copy_attribute(graph_module: GraphModule, region: GraphModule, node: Node) -> Node:
    """A constant or an inner region moves to the outer module under a name of its own."""
    value: Any = operator.attrgetter(str(node.target))(region)
    name = f"_inlined_{node.name}_{sum(1 for _ in graph_module.named_children())}_{len(graph_module._buffers)}"
    if isinstance(value, torch.nn.Module):
        graph_module.add_module(name, value)
    else:
        graph_module.register_buffer(name, value, persistent=False)
    copy = graph_module.graph.get_attr(name)
    copy.meta = dict(node.meta)
    return copy


def _detach(graph_module: GraphModule, value: Any) -> Any:
    if not isinstance(value, Node) or not isinstance(value.meta.get("val"), torch.Tensor):
        return value
    if not value.meta["val"].is_floating_point():
        return value
    detached = graph_module.graph.call_function(torch.ops.aten.detach.default, (value,))
    detached.meta = dict(value.meta)
    return detached
