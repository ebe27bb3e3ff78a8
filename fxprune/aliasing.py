"""Which values of a graph share memory, and which operations write to it.

Graphs are captured with their in-place operations. What leaves one stretch of a graph in place reaches every value
that shares the memory, whoever reads it later, so that whoever takes operations out of a graph has to know.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet

from torch._ops import OpOverload
from torch.fx import Node

_RETURNS_ITS_INPUT = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


def is_mutating(node: Node) -> bool:
    """Whether an operation writes to some operand."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def written(node: Node) -> Iterator[Node]:
    """Values that an operation writes to."""
    yield from (value for value, writes in _shared(node) if writes)


def sources(node: Node) -> Iterator[Node]:
    """Operands whose memory the result of an operation may share."""
    yield from (value for value, _ in _shared(node))


def aliases(value: Node, *, beyond: AbstractSet[Node] = frozenset()) -> set[Node]:
    """All values that may share memory with `value`, itself included; not those reached through `beyond` only."""
    return reached([value], lambda node: (*sources(node), *(each for each in _sharers(node) if each not in beyond)))


def offspring(value: Node) -> set[Node]:
    """Values made of `value` that may share its memory, itself included."""
    return reached([value], _sharers)


def reached(starts: Iterable[Node], step: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """Nodes that steps from `starts` lead to, these included."""
    found, waiting = set[Node](), list(starts)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(step(node))
    return found


def _sharers(node: Node) -> Iterator[Node]:
    """Operations whose result may share the memory of their operand `node`."""
    return (user for user in node.users if node in set(sources(user)))


def _shared(node: Node) -> Iterator[tuple[Node, bool]]:
    """Operands whose memory the result may share, and whether it is written to."""
    target = node.target
    if target is operator.getitem:
        yield node.args[0], False  # type: ignore[misc]
        return
    if not isinstance(target, OpOverload):
        return
    if target._schema.name.removeprefix("aten::") in _RETURNS_ITS_INPUT:
        yield node.args[0], False  # type: ignore[misc]
        return
    for position, argument in enumerate(target._schema.arguments):
        if argument.alias_info is None:
            continue
        value = node.kwargs.get(argument.name, node.args[position] if position < len(node.args) else None)
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Node):
                yield each, argument.alias_info.is_write
