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
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Graph, Node

from fxprune.aliasing import is_mutating
from fxprune.passes.slim import origins_of

aten = torch.ops.aten
Sizes: TypeAlias = list[int | Node | None]
"""Of each dimension the number, or the node that computes it, or None where neither is known."""

_SAME = frozenset({aten.clone.default, aten.contiguous.default, aten.dropout.default})
"""Operations whose result has the shape of their first operand."""
_SHAPES = frozenset({aten.reshape.default, aten.view.default})
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
        known[node] = _sizes(node, known, tensors)
        source: Any = node.args[0] if node.args else None
        if _is_idle(node, known) and not any(user.op == "output" for user in node.users):
            source.meta["views"] = (*source.meta.get("views", ()), *origins_of(node))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()


def _is_idle(node: Node, known: Mapping[Node, Sizes | None]) -> bool:
    """Whether an operation's result is its first operand, whatever the inputs."""
    if node.op != "call_function" or node.kwargs:
        return False
    if node.target == aten.slice.Tensor:
        arguments: tuple[object, ...] = (*node.args, *_SLICE[len(node.args) :])
        return arguments[2:] in _EVERYTHING
    if node.target not in {*_SHAPES, aten.expand.default}:
        return False
    source: Any = node.args[0]
    asked: Any = node.args[1]
    found = known.get(source)
    if found is None or len(found) != len(asked) or (node.target in _SHAPES and list(asked).count(-1) > 1):
        return False
    return all(want == -1 or (have is not None and have == want) for have, want in zip(found, asked, strict=True))


def _sizes(node: Node, known: Mapping[Node, Sizes | None], tensors: Mapping[str, Any]) -> Sizes | None:
    """What is known of a result's sizes for any inputs; None where not even their number is."""
    if node.op == "get_attr":
        tensor = tensors.get(str(node.target))
        return list(tensor.shape) if isinstance(tensor, Tensor) else None
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source, more = known.get(node.args[0]), node.args[1:]
    if node.target in _SHAPES:
        asked: Any = more[0]
        return [None if each == -1 else each for each in asked]
    if node.target == aten.scaled_dot_product_attention.default:
        return _attended(*(known.get(each) if isinstance(each, Node) else None for each in node.args[:3]))
    if source is None:
        return None
    return _rearranged(node.target, list(source), more)


def _rearranged(target: Any, source: Sizes, more: tuple[Any, ...]) -> Sizes | None:
    """Sizes of what shows or copies all of a tensor in some order."""
    if target in _SAME:
        return source
    if target == aten.transpose.int:
        first, second = more
        source[first], source[second] = source[second], source[first]
        return source
    if target == aten.permute.default:
        return [source[at] for at in more[0]]
    return None


def _attended(query: Sizes | None, key: Sizes | None, value: Sizes | None) -> Sizes | None:
    """Sizes of the result of attention: places of the queries, features of the values, and of what they agree on the rest."""
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return None
    outer = [each if each == other == another else None for each, other, another in zip(query, key, value, strict=True)]
    return [*outer[:-2], query[-2], value[-1]]
