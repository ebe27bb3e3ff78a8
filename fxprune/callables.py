"""The methods and functions of PyTorch that call an overload, for code that is written from a graph.

A call of an overload (`torch.ops.aten.transpose.int(x, 1, 2)`) goes through a Python function and a generic unpacking of
arguments, and takes about twice as long as `x.transpose(1, 2)`, which hands the same arguments to the same overload: tests
compare what PyTorch records of either, for every entry. Operations that make tensors have none, since `with torch.device(...)`
changes what their functions mean, and neither have those whose function returns another type than the overload. Under
`torch.jit.trace` that is so of sizes: `x.size(0)` is a tensor there, which overloads refuse, so that sizes are asked for by
method only where methods and functions are all that reads them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

aten = torch.ops.aten

METHODS: frozenset[OpOverload] = frozenset(
    {
        aten.add.Tensor,
        aten.add_.Tensor,
        aten.bmm.default,
        aten.cos.default,
        aten.div.Tensor,
        aten.exp.default,
        aten.expand.default,
        aten.flatten.using_ints,
        aten.gather.default,
        aten.masked_fill.Scalar,
        aten.matmul.default,
        aten.mean.dim,
        aten.mul.Tensor,
        aten.neg.default,
        aten.permute.default,
        aten.pow.Tensor_Scalar,
        aten.relu.default,
        aten.relu_.default,
        aten.reshape.default,
        aten.rsqrt.default,
        aten.select.int,
        aten.sigmoid.default,
        aten.sin.default,
        aten.softmax.int,
        aten.sqrt.default,
        aten.squeeze.dim,
        aten.sub.Tensor,
        aten.sum.dim_IntList,
        aten.tanh.default,
        aten.to.dtype,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
"""Overloads that the first operand's method of the operation's name calls."""

FUNCTIONS: Mapping[OpOverload, Callable[..., Any]] = {
    aten.adaptive_avg_pool2d.default: torch._C._nn.adaptive_avg_pool2d,
    aten.avg_pool2d.default: torch._C._nn.avg_pool2d,
    aten.cat.default: torch.cat,
    aten.conv1d.default: torch.conv1d,
    aten.conv2d.default: torch.conv2d,
    aten.embedding.default: torch.embedding,
    aten.gelu.default: torch._C._nn.gelu,
    aten.group_norm.default: torch.group_norm,
    aten.hardtanh.default: torch._C._nn.hardtanh,
    aten.layer_norm.default: torch.layer_norm,
    aten.linear.default: torch._C._nn.linear,
    aten.max_pool2d.default: torch.max_pool2d,
    aten.rms_norm.default: torch.rms_norm,
    aten.scaled_dot_product_attention.default: torch._C._nn.scaled_dot_product_attention,
    aten.silu.default: torch._C._nn.silu,
    aten.stack.default: torch.stack,
    aten.where.self: torch.where,
}
"""Overloads, and the functions that call them."""
_ARITHMETIC = frozenset({operator.add, operator.floordiv, operator.mul, operator.sub})
"""What is computed of sizes by operators that tensors have as well."""


MOST_POSITIONAL: Mapping[OpOverload, int] = {aten.to.dtype: 4}
"""Of overloads that take more arguments by position than their methods, how many those take."""


def call_publicly(node: Node, readers: Iterable[Node] = ()) -> None:
    """Have a node that calls an overload call its method or function instead, if it has one.

    Args:
        node: it is changed.
        readers: nodes that read its result, as they are in the graph that the code is written from.
    """
    if node.target == aten.sym_size.int:
        if _is_plain(node, aten.sym_size.int) and all(map(_is_public, readers)):
            node.op, node.target = "call_method", "size"
    elif (public := _public_form(node)) is not None:
        node.op, node.target = public


def _public_form(node: Node) -> tuple[str, str | Callable[..., Any]] | None:
    """The kind of node, and its target, that calls a node's overload by method or function; None where neither does."""
    target = node.target
    if not isinstance(target, OpOverload) or not _is_plain(node, target):
        return None
    if target in METHODS and isinstance(node.args[0], Node):
        return "call_method", target._schema.name.partition("::")[2]
    return ("call_function", FUNCTIONS[target]) if target in FUNCTIONS else None


def _is_plain(node: Node, target: OpOverload) -> bool:
    """Whether arguments are given as methods take them: by name only those that can only be given so."""
    named = {each.name for each in target._schema.arguments if each.kwarg_only}
    return 0 < len(node.args) <= MOST_POSITIONAL.get(target, len(node.args)) and node.kwargs.keys() <= named


def _is_public(node: Node) -> bool:
    """Whether a node is called by its method or function, or computes a size for nothing but such nodes."""
    return _public_form(node) is not None or (node.target in _ARITHMETIC and all(map(_is_public, node.users)))
