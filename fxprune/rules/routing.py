"""Mixtures of experts: which operations send rows to experts, so that whole experts can be cut.

A router gives every token a distribution over experts and takes the k best; rows are sorted by the numbers of their experts,
counted, and each expert's product takes its stretch of them (`grouped_mm`):

    p = softmax(x w)      v, e = topk(p, k)      offsets = cumsum(histc(e))      y[t] = x[t] W[e(t)]

The numbers e name indices of the experts' axis. Cutting experts numbers those that stay anew, and has softmax and the choice
see only them. That is right where nothing else is made of the numbers, for which an operation that looks at their values
would have to be rewritten: `routes` follows them through the graph, and where they reach any other operation than those
above, the axis stays pinned.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

aten = torch.ops.aten

_PASSING = (
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy.default,
)
"""Operations that keep values and their order."""
SORTS = (aten.sort.default, aten.sort.stable)
"""Operations that sort, whose second result are the positions before."""
GROUPED = ("transformers.grouped_mm_fallback.default", "aten._grouped_mm.default")
"""Products whose rows belong to experts as offsets tell."""
_OFFSETS = 2
"""Position of the offsets among their arguments."""


def is_grouped(node: Node) -> bool:
    """Whether an operation is a product in groups."""
    return node.op == "call_function" and str(node.target) in GROUPED


def offsets_of(node: Node) -> Node | None:
    """The offsets that a product in groups reads."""
    given = node.args[_OFFSETS] if len(node.args) > _OFFSETS else node.kwargs.get("offs")
    return given if isinstance(given, Node) else None


def routes(node: Node) -> bool:
    """Whether a `topk` along the last axis chooses experts, and its positions serve for nothing else."""
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
    scores = node.args[0]
    assert isinstance(scores, Node)
    shape = scores.meta["val"].shape
    if dim not in (-1, len(shape) - 1) or any(user.target is not operator.getitem for user in node.users):
        return False
    todo, counted = _results(node, 1), False
    while todo:
        for user in (numbers := todo.pop()).users:
            if user.target in _PASSING and user.args[0] is numbers:
                todo.append(user)
            elif user.target in SORTS and all(each.target is operator.getitem for each in user.users):
                todo += _results(user, 0)  # positions of sorted rows are positions of rows, whatever experts are called
            elif user.target is aten.histc.default and _counts(user, int(shape[-1])):
                counted = True
            else:
                return False
    return counted


def leads_to_choice(node: Node) -> bool:
    """Whether a distribution is used for nothing but to choose experts by."""
    todo, found = [node], False
    while todo:
        for user in todo.pop().users:
            if user.target in _PASSING:
                todo.append(user)
            elif user.target is aten.topk.default and routes(user):
                found = True
            else:
                return False
    return found


def counted_by(product: Node) -> Node | None:
    """The counts that a product's offsets are sums of; None where the offsets are something else."""
    offsets = offsets_of(product)
    if offsets is None or offsets.target is not aten.cumsum.default:
        return None
    counts = offsets.args[0]
    assert isinstance(counts, Node)
    return counts


def chosen_by(node: Node) -> Node | None:
    """The choice that numbers come from, through what keeps them; None for weights and for positions of rows."""
    while node.op == "call_function" and (
        node.target in _PASSING or node.target is operator.getitem or node.target in SORTS
    ):
        source = node.args[0]
        assert isinstance(source, Node)
        if node.target is operator.getitem and node.args[1] != (0 if source.target in SORTS else 1):
            return None
        node = source
    return node


def _results(node: Node, number: int) -> list[Node]:
    return [user for user in node.users if user.args[1] == number]


def _counts(node: Node, size: int) -> bool:
    """Whether a histogram has a bin for each expert, and its counts become offsets of products, nothing else."""
    if tuple(node.args[1:]) != (size, 0, size - 1) or node.kwargs:
        return False
    sums = list(node.users)
    offsets = [user for each in sums for user in each.users]
    return (
        bool(offsets)
        and all(each.target is aten.cumsum.default for each in sums)
        and all(_divides(user, each, size) for each in sums for user in each.users)
    )


def _divides(node: Node, offsets: Node, size: int) -> bool:
    """Whether a product in groups takes these offsets, as such, for as many matrices."""
    if not is_grouped(node) or offsets_of(node) is not offsets or node.all_input_nodes.count(offsets) != 1:
        return False
    weight = node.args[1]
    return isinstance(weight, Node) and len(weight.meta["val"].shape) == 3 and weight.meta["val"].shape[0] == size
