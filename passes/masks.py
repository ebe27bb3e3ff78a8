"""Attention masks that hide nothing are left out.

Models skip a mask that is not needed, when they see in Python that it hides nothing; where they are traced they cannot look, and
compute one that is true everywhere, such as `arange(length) >= 0`. Attention with a mask is slower, and on a GPU runs on other
kernels than attention without. So what a mask is computed from is followed back, with two facts that hold for any sizes:

    true(x >= s)   if lowest(x) >= s          lowest(arange(n)) = 0,   lowest(x + c) = lowest(x) + c
    true(a and b)  if true(a) and true(b)     and views, copies and parts of what is true everywhere are so, too

x, s and c are whole numbers of 64 bits: smaller ones overflow, and numbers of floating point are rounded.

A mask that anything else takes part in, an input above all, is left alone; so is one that is larger than the queries it is for,
whose copies the result would have, and so are all where the graph writes into tensors of truth values or integers. Where the
length is fixed, the mask is a constant, and stays if it has more than one element: a window of 8 hides nothing from 6 positions,
but would from 12, which the slim module refuses for nothing but the size of the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from fxprune.aliasing import is_mutating

aten = torch.ops.aten
Constants: TypeAlias = Mapping[str, Tensor | nn.Module]

_LOOKS = frozenset(
    {
        aten.alias.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.expand.default,
        aten.permute.default,
        aten.reshape.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.squeeze.dim,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
"""Operations whose result holds numbers of their first operand and no others."""
_BOTH = frozenset({aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor})
_MASK = 3
"""Position of the mask among the arguments of attention."""


def drop_idle_masks(graph: Graph, constants: Constants) -> None:
    """Give attention None for masks that hide nothing, and drop what computes them.

    Args:
        graph: copies of original nodes, which stand in `node.meta["origin"]`; it is changed.
        constants: folded constants of the original by name.
    """
    if any(map(_writes, graph.nodes)):
        return
    changed = False
    for node in graph.nodes:
        origin = node.meta.get("origin")
        if isinstance(origin, Node) and has_idle_mask(origin, constants):
            node.args = tuple(None if at == _MASK else each for at, each in enumerate(node.args))
            node.kwargs = {name: each for name, each in node.kwargs.items() if name != "attn_mask"}
            changed = True
    if changed:
        graph.eliminate_dead_code()
        graph.lint()


def _writes(node: Node) -> bool:
    """Whether an operation writes into a tensor that a mask could be computed from: one that is not of floating point."""
    if not is_mutating(node):
        return False
    values = [each.meta["origin"].meta.get("val") for each in node.all_input_nodes if "origin" in each.meta]
    known = [each for each in values if isinstance(each, Tensor)]
    return len(known) < len(node.all_input_nodes) or not all(each.is_floating_point() for each in known)


def has_idle_mask(node: Node, constants: Constants) -> bool:
    """Whether a node of a captured graph is attention with a boolean mask that hides nothing."""
    if node.target != aten.scaled_dot_product_attention.default:
        return False
    mask = node.args[_MASK] if len(node.args) > _MASK else node.kwargs.get("attn_mask")
    query = node.args[0] if node.args else node.kwargs.get("query")
    if not (isinstance(mask, Node) and isinstance(query, Node)):
        return False
    value, asking = mask.meta.get("val"), query.meta.get("val")
    if not (isinstance(value, Tensor) and isinstance(asking, Tensor)) or value.dtype != torch.bool:
        return False
    return _fits(value, asking) and _is_true(mask, constants)


def _fits(mask: Tensor, query: Tensor) -> bool:
    """Whether all but the mask's last dimension are those of the queries, or 1; symbolic ones by what they are called."""
    own, asked = list(mask.shape[:-1]), list(query.shape[:-1])
    pairs = zip(reversed(own), reversed(asked), strict=False)
    return len(own) <= len(asked) and all(str(size) in {"1", str(wanted)} for size, wanted in pairs)


def _is_true(value: Any, constants: Constants) -> bool:
    """Whether a tensor of truth values is true everywhere, whatever the inputs."""
    if not isinstance(value, Node):
        return False
    if value.op == "get_attr":
        known = constants.get(str(value.target))
        return isinstance(known, Tensor) and known.numel() == 1 and not known.is_meta and bool(known.all())
    if value.target in _LOOKS:
        return _is_true(value.args[0], constants)
    if value.target in _BOTH:
        return all(_is_true(each, constants) for each in value.args)
    if value.target == aten.ge.Scalar:
        lowest, bound = _lowest(value.args[0]), value.args[1]
        return lowest is not None and isinstance(bound, int) and lowest >= bound
    return False


def _lowest(value: Any) -> int | None:
    """A number that no element of a tensor of whole numbers is below; None where none is known."""
    if not isinstance(value, Node) or value.op != "call_function":
        return None
    known = value.meta.get("val")
    if not isinstance(known, Tensor) or known.dtype != torch.int64:
        return None
    if value.target in _LOOKS:
        return _lowest(value.args[0])
    if value.target == aten.arange.default:
        return 0
    if value.target == aten.arange.start:
        start = value.args[0]
        return start if isinstance(start, int) else None
    if value.target == aten.add.Tensor and not value.kwargs and len(value.args) == 2:
        lowest, more = _lowest(value.args[0]), value.args[1]
        return lowest + more if lowest is not None and isinstance(more, int) else None
    return None
