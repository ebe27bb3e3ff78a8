"""Constant folding: what depends on no input, parameter or buffer is computed once.

A folded constant is a tensor with axes like any other, so that it can be sliced with them: ALiBi slopes per head,
masks, index tables. Random operations, tensors that are written to in place, and sizes that depend on the batch stay
in the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves


def fold_constants(graph_module: GraphModule, stateful: frozenset[str]) -> dict[str, Tensor | nn.Module]:
    """Replace constant subgraphs by `get_attr` nodes, in place.

    Args:
        graph_module: a graph that the caller owns.
        stateful: names of parameters and buffers, which are not constants.

    Returns:
        All constants of the graph by name, those that it held before included.
    """
    values: dict[Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target not in stateful:
            values[node] = _attribute(graph_module, str(node.target))
        elif _is_constant(node, values):
            values[node] = _evaluate(node, values)
    for node in [each for each in values if each.op == "call_function"]:
        if isinstance(values[node], Tensor) and any(user not in values for user in node.users):
            _replace(graph_module, node, values[node])
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    used = [str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"]
    return {name: _attribute(graph_module, name) for name in used if name not in stateful}


def _is_constant(node: Node, values: dict[Node, Any]) -> bool:
    if node.op != "call_function" or not all(each in values for each in node.all_input_nodes):
        return False
    if isinstance(node.target, OpOverload):
        if node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags:
            return False
    elif getattr(node.target, "__module__", "") not in {"_operator", "math"}:
        return False
    return not _is_written(node) and _is_static(node.meta.get("val"))


def _is_static(value: Any) -> bool:
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool):
            return False
        if isinstance(leaf, Tensor) and any(isinstance(size, torch.SymInt) for size in leaf.shape):
            return False
    return True


def _is_written(node: Node) -> bool:
    """Whether an in-place operation writes to this value, or to a view of it."""
    for user in node.users:
        if not isinstance(user.target, OpOverload):
            continue
        if user.target._schema.is_mutable and user.args and user.args[0] is node:
            return True
        if user.target.is_view and _is_written(user):
            return True
    return False


def _evaluate(node: Node, values: dict[Node, Any]) -> Any:
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda each: values[each])
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _replace(graph_module: GraphModule, node: Node, value: Tensor) -> None:
    name = f"_constant_{node.name}"
    graph_module.register_buffer(name, value.detach().contiguous(), persistent=False)
    with graph_module.graph.inserting_before(node):
        constant = graph_module.graph.get_attr(name)
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)


def _attribute(graph_module: GraphModule, name: str) -> Any:
    value: Any = graph_module
    for part in name.split("."):
        value = getattr(value, part)
    return value
