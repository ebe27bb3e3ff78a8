"""The methods and functions of PyTorch that call an overload, for code that is written from a graph.

A call of an overload (`torch.ops.aten.transpose.int(x, 1, 2)`) goes through a Python function and a generic unpacking of
arguments, and takes about twice as long as `x.transpose(1, 2)`, which hands the same arguments to the same overload: tests
compare what PyTorch records of either, for every entry. Operations that make tensors have none, since `with torch.device(...)`
changes what their functions mean, and neither have those whose function returns another type than the overload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def call_publicly(node: Node) -> None:
    """Have a node that calls an overload call its method or function instead, if it has one."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, OpOverload) or not _is_plain(node, target):
        return
    if target == aten.sym_size.int:
        node.op, node.target = "call_method", "size"
    elif target in METHODS and isinstance(node.args[0], Node):
        node.op, node.target = "call_method", target._schema.name.partition("::")[2]
    elif target in FUNCTIONS:
        node.target = FUNCTIONS[target]


def _is_plain(node: Node, target: OpOverload) -> bool:
    """Whether arguments are given as methods take them: by name only those that can only be given so."""
    return bool(node.args) and node.kwargs.keys() <= {each.name for each in target._schema.arguments if each.kwarg_only}
