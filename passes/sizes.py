"""What an emitted graph itself shows of sizes, for any inputs.

A captured shape says what a size was on the example inputs. What holds for all is what an operation asks for, a number or
a size that a node computes, and what follows from that where it is rearranged:

    reshape(x, [a, b]) = [a, b]       permute([a, b, c], [2, 0, 1]) = [c, a, b]       unbind([a, b, c], 0)[i] = [b, c]
    attention(q, k, v) = [*broadcast of the others, places of q, features of v]
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.fx import Node

aten = torch.ops.aten
Sizes: TypeAlias = list[int | Node | None]
"""Of each dimension the number, or the node that computes it, or None where neither is known."""
Known: TypeAlias = Callable[[Node], Sizes | None]
"""What is known of a node's result; None where not even the number of dimensions is."""

RESHAPES = frozenset({aten.reshape.default, aten.view.default})
"""Operations that take the sizes of their result."""
_SAME = frozenset({aten.clone.default, aten.contiguous.default, aten.dropout.default})
"""Operations whose result has the shape of their first operand."""
_MOVES = frozenset({*_SAME, aten.permute.default, aten.transpose.int})


def sizes_of(node: Node, known: Known) -> Sizes | None:
    """What is known of a result.

    Args:
        node: a node of an emitted graph.
        known: what is known of its operands.
    """
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    if node.target == aten.scaled_dot_product_attention.default:
        return _attended(*(known(each) if isinstance(each, Node) else None for each in node.args[:3]))
    if node.target in RESHAPES:
        asked: Any = node.args[1]
        return [None if each == -1 else each for each in asked]
    if node.target is operator.getitem:
        return _part(node.args[0], known)
    found = known(node.args[0]) if node.target in _MOVES else None
    return None if found is None else _moved(node.target, list(found), node.args[1:])


def _moved(target: Any, source: Sizes, more: tuple[Any, ...]) -> Sizes:
    """Sizes of what shows or copies all of a tensor in some order."""
    if target == aten.permute.default:
        return [source[at] for at in more[0]]
    if target == aten.transpose.int:
        first, second = more
        source[first], source[second] = source[second], source[first]
    return source


def _part(parts: Node, known: Known) -> Sizes | None:
    """Sizes of each of the parts that a tensor is taken apart into along its first dimension."""
    if parts.target != aten.unbind.int or parts.kwargs or parts.args[1:] not in {(), (0,)}:
        return None
    source: Any = parts.args[0]
    found = known(source)
    return None if found is None else found[1:]


def _attended(query: Sizes | None, key: Sizes | None, value: Sizes | None) -> Sizes | None:
    """Sizes of the result of attention, which a mask does not enlarge: PyTorch adds it in place."""
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return None
    outer = [_broadcast({*sizes}) for sizes in zip(query[:-2], key[:-2], value[:-2], strict=True)]
    return [*outer, query[-2], value[-1]]


def _broadcast(sizes: set[int | Node | None]) -> int | Node | None:
    """The size of a dimension that operands of these sizes are brought to."""
    larger = sizes - {1}
    if len(larger) > 1:
        return None
    return next(iter(larger), 1)
