"""What the graph knows of sizes: per operation the whole numbers among its arguments, before and after the cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from fxprune.apply.places import Place, place_of_node
from fxprune.axes import leaves
from fxprune.cut import Cut
from fxprune.passes.slim import axes_of
from fxprune.propagate import Propagation
from fxprune.rules.trace import hint

Old = int
New = int | None


@dataclass(frozen=True, slots=True)
class Sized:
    """One operation of the graph.

    Attributes:
        node: in the original graph.
        place: where it was called.
        numbers: (old, new) in the order of its arguments; new is None where no one number says it any more.
        parts: of an operation that splits, the sizes of the parts now.
        dynamic: positions among the numbers that depend on the batch or the sequence.
    """

    node: Node
    place: Place
    numbers: tuple[tuple[Old, New], ...]
    parts: tuple[int, ...] | None = None
    dynamic: frozenset[int] = frozenset()

    @property
    def old(self) -> tuple[int, ...]:
        """The original numbers."""
        return tuple(old for old, _ in self.numbers)


@dataclass(frozen=True, slots=True)
class Sizes:
    """All operations with whole numbers, and for each module what its sizes become.

    Attributes:
        operations: by place, in order.
        candidates: path of a module -> {old size: new sizes that it has there}, only those that change.
    """

    operations: Mapping[Place, list[Sized]]
    candidates: Mapping[str, Mapping[int, list[int]]]


def find_sizes(graph: Graph, propagation: Propagation, cut: Cut, aliases: Mapping[str, str]) -> Sizes:
    """Read sizes off a slim graph as it was emitted (before modules are raised), and the axes of the original.

    Args:
        graph: of the slim model.
        propagation: axes.
        cut: what is kept.
        aliases: path of each module that has several -> the one that comes first, under which calls are observed.
    """
    operations: dict[Place, list[Sized]] = defaultdict(list)
    candidates: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for copy in graph.nodes:
        origin: Node | None = copy.meta.get("origin")
        if copy.op != "call_function" or origin is None:
            continue
        place = place_of_node(origin)
        place = replace(place, path=aliases.get(place.path, place.path))
        sized = Sized(origin, place, tuple(_pairs(origin, copy)), _parts(origin, copy), _dynamic(copy))
        if sized.numbers:
            operations[place].append(sized)
        for old, new in (*sized.numbers, *_axis_sizes(origin, propagation, cut)):
            if new is not None and new != old and new not in candidates[place.path][old]:
                candidates[place.path][old].append(new)
    return Sizes(dict(operations), {path: dict(found) for path, found in candidates.items()})


def _axis_sizes(node: Node, propagation: Propagation, cut: Cut) -> Iterator[tuple[int, int]]:
    """Sizes of the axes of operands and results, then of what they are made of."""
    axes = [axis for each in (node, *node.all_input_nodes) for found in axes_of(propagation, each) for axis in found]
    yield from ((axis.size, cut.count(axis)) for axis in axes)
    yield from ((leaf.size, cut.count(leaf)) for axis in axes for leaf in leaves(axis))


def _pairs(origin: Node, copy: Node) -> Iterator[tuple[Old, New]]:
    """Old and new numbers of one operation."""
    if _became_split(origin, copy):
        yield from _split_pairs(origin, copy)
        return
    old, new = list(_numbers((origin.args, origin.kwargs))), list(_numbers((copy.args, copy.kwargs)))
    if len(old) == len(new):
        yield from zip(old, new, strict=True)


def _split_pairs(origin: Node, copy: Node) -> Iterator[tuple[Old, New]]:
    """A split became one with sizes: a single number still says them where the parts are equal."""
    given: Any = origin.args[1]
    sizes: Any = copy.args[1]
    if isinstance(given, int):
        equal = len(set(sizes)) == 1
        counts = "chunk" in str(origin.target) or "sections" in str(origin.target)
        yield given, (given if counts else sizes[0]) if equal else None
    elif "indices" in str(origin.target):
        yield from zip(_numbers(given), accumulate(_numbers(sizes)), strict=False)
    else:
        yield from zip(_numbers(given), _numbers(sizes), strict=True)
    dim: Any = origin.args[2] if len(origin.args) > 2 else origin.kwargs.get("dim", 0)
    yield dim, dim


def _parts(origin: Node, copy: Node) -> tuple[int, ...] | None:
    """The sizes that a split became one with; None for any other operation."""
    return tuple(_numbers(copy.args[1])) if _became_split(origin, copy) else None


def _became_split(origin: Node, copy: Node) -> bool:
    """Whether a split was rewritten as one with sizes."""
    return "split" in str(copy.target) and copy.target is not origin.target


def _dynamic(copy: Node) -> frozenset[int]:
    """Which of an operation's numbers are no constants of the graph."""
    if _became_split(copy.meta["origin"], copy):
        return frozenset()
    found = [each for each in tree_leaves((copy.args, dict(copy.kwargs))) if _is_number(each)]
    return frozenset(at for at, each in enumerate(found) if isinstance(each, Node))


def _is_number(value: Any) -> bool:
    """Whether an argument is a whole number, or a node that stands for one."""
    if isinstance(value, Node):
        return _value_of(value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(value: Any) -> Iterator[int]:
    """Whole numbers in the order of the arguments, symbolic ones as they were when the model was captured."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Node):
        number = _value_of(value)
        if number is not None:
            yield number
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _numbers(each)


def _value_of(node: Node) -> int | None:
    """The number that a node stands for; None for a tensor."""
    origin: Node = node.meta.get("origin", node)
    value = origin.meta.get("val")
    if isinstance(value, int | torch.SymInt):
        return hint(value)
    if value is None and node.op == "call_function" and "origin" not in node.meta and callable(node.target):
        operands = [_value_of(each) if isinstance(each, Node) else each for each in node.args]
        if all(isinstance(each, int) for each in operands):
            return int(node.target(*operands))
    return None
