"""Views that show all of a tensor as it is are left out.

Models slice and reshape for cases that are not this one: `x[:, :]`, or `x.reshape(batch, -1, length, 64)` of what has that
shape already. In PyTorch each is a call, which a small model notices, and in other runtimes an operation.

Only what holds for any sizes is left out: a slice of everything; a reshape or expansion to sizes each of which is -1, or the
very number or computed size that an operation further up gave the tensor there. So the length 64 of an example, which stands
in the graph as a number, is nothing that a tensor is known to have, and a module that refuses other lengths goes on to refuse
them; the 64 of an earlier reshape to heads is.

A view is kept where it is what the model returns, and all are where the graph writes into tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from fxprune.aliasing import is_mutating
from fxprune.passes.sizes import RESHAPES, Sizes, sizes_of
from fxprune.passes.slim import origins_of

aten = torch.ops.aten
_SLICE = (None, 0, None, None, 1)
"""What the arguments of a slice are where they are not given."""
_EVERYTHING = [(start, end, 1) for start in (None, 0) for end in (None, sys.maxsize)]
"""Where a slice of everything begins and ends, and its step."""


def drop_idle_views(graph: Graph, tensors: Mapping[str, Any]) -> None:
    """Have readers of a view that shows all of a tensor as it is read the tensor itself.

    Args:
        graph: an emitted graph; it is changed. `node.meta["views"]` says which views of the original a node stands for now.
        tensors: parameters, buffers and constants that it reads, by name.
    """
    if any(map(is_mutating, graph.nodes)):
        return
    known: dict[Node, Sizes | None] = {}
    for node in list(graph.nodes):
        known[node] = _stored(node, tensors) if node.op == "get_attr" else sizes_of(node, known.get)
        source: Any = node.args[0] if node.args else None
        if _is_idle(node, known) and not any(user.op == "output" for user in node.users):
            source.meta["views"] = (*source.meta.get("views", ()), *origins_of(node))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()


def _stored(node: Node, tensors: Mapping[str, Any]) -> Sizes | None:
    tensor = tensors.get(str(node.target))
    return list(tensor.shape) if isinstance(tensor, Tensor) else None


def _is_idle(node: Node, known: Mapping[Node, Sizes | None]) -> bool:
    """Whether an operation's result is its first operand, whatever the inputs."""
    if node.op != "call_function" or node.kwargs:
        return False
    if node.target == aten.slice.Tensor:
        arguments: tuple[object, ...] = (*node.args, *_SLICE[len(node.args) :])
        return arguments[2:] in _EVERYTHING
    if node.target not in {*RESHAPES, aten.expand.default}:
        return False
    source: Any = node.args[0]
    asked: Any = node.args[1]
    found = known.get(source)
    if found is None or len(found) != len(asked) or (node.target in RESHAPES and list(asked).count(-1) > 1):
        return False
    return all(want == -1 or (have is not None and have == want) for have, want in zip(found, asked, strict=True))
