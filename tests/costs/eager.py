"""Independent measurement of a captured graph: it is run with real tensors, node by node, and storages are counted."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx._pytree import tree_flatten_spec
from torch.utils._pytree import tree_leaves

from fxprune.program import Program


def live_bytes(program: Program) -> list[int]:
    """Bytes of all values alive after each node of the graph, before what it read last is freed."""
    inputs = iter(tree_flatten_spec((program.args, dict(program.kwargs)), program.in_spec))
    leaves = [leaf for leaf in tree_leaves((program.args, dict(program.kwargs))) if isinstance(leaf, Tensor)]
    stored = (*program.tensors.values(), *program.constants.values())
    weights = {_storage(tensor) for tensor in stored if isinstance(tensor, Tensor)}
    environment: dict[Node, Any] = {}
    found = []
    for node in program.graph_module.graph.nodes:
        environment[node] = _run(node, environment, program, inputs)
        found.append(_bytes([*environment.values(), *leaves], weights))
        for each in (node, *node.all_input_nodes):
            if all(user in environment for user in each.users):
                environment.pop(each, None)
                environment.setdefault(each, None)
    return found


def _run(node: Node, environment: dict[Node, Any], program: Program, inputs: Iterator[Any]) -> Any:
    if node.op == "placeholder":
        return next(inputs)
    if node.op == "get_attr":
        name = str(node.target)
        return program.constants[name] if name in program.constants else program.tensors[name]
    args: Any = torch.fx.map_arg(node.args, lambda each: environment[each])
    kwargs: Any = torch.fx.map_arg(node.kwargs, lambda each: environment[each])
    if node.op == "output":
        return args[0]
    if node.target is operator.getitem:
        return args[0][args[1]]
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _bytes(values: list[Any], weights: set[int]) -> int:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    storages = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for storage, size in storages.items() if storage not in weights)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
