"""Methods and functions that stand for overloads hand them the same arguments."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from fxprune.callables import FUNCTIONS, METHODS, call_publicly

aten = torch.ops.aten
X, Y = torch.rand(2, 4, 6), torch.rand(2, 4, 6)
IMAGES, KERNEL, ONES = torch.rand(2, 4, 8, 8), torch.rand(6, 2, 3, 3), torch.ones(6)
HEADS = torch.rand(2, 4, 5, 8)
Arguments = tuple[Any, ...]

CALLS: dict[OpOverload, list[Arguments]] = {
    aten.adaptive_avg_pool2d.default: [(IMAGES, [2, 2]), (IMAGES, [1, 1])],
    aten.add.Tensor: [(X, Y), (X, 2), (X, Y, {"alpha": 3}), (torch.arange(6), 0.5), (X, torch.rand(6).double())],
    aten.add_.Tensor: [(X, Y), (X, 2)],
    aten.avg_pool2d.default: [(IMAGES, [3, 3], [2, 2], [1, 1], True, False, 5), (IMAGES, [2, 2])],
    aten.bmm.default: [(X, torch.rand(2, 6, 3))],
    aten.cat.default: [([X, Y], -1), ([X, Y],)],
    aten.conv1d.default: [(X, torch.rand(5, 4, 3), None, [2], [1])],
    aten.conv2d.default: [(IMAGES, KERNEL, ONES, [2, 2], [1, 1], [1, 1], 2), (IMAGES, torch.rand(6, 4, 3, 3))],
    aten.cos.default: [(X,)],
    aten.div.Tensor: [(X, Y), (X, 8), (torch.arange(6), 4)],
    aten.embedding.default: [(KERNEL[:, 0, 0], torch.tensor([[0, 5]])), (KERNEL[:, 0, 0], torch.tensor([1]), 1)],
    aten.exp.default: [(X,)],
    aten.expand.default: [(torch.rand(1, 6), [3, -1]), (torch.rand(6), [2, 4, 6])],
    aten.flatten.using_ints: [(IMAGES, 1), (IMAGES, 1, 2), (IMAGES,)],
    aten.gather.default: [(X, 1, torch.zeros(2, 1, 6, dtype=torch.long))],
    aten.gelu.default: [(X,), (X, {"approximate": "tanh"})],
    aten.group_norm.default: [(IMAGES, 2), (IMAGES, 2, torch.ones(4), torch.zeros(4), 1e-4, False)],
    aten.hardtanh.default: [(X, 0.0, 6.0), (X,)],
    aten.layer_norm.default: [(X, [6]), (X, [6], ONES, ONES, 1e-12, False), (X, [4, 6], None, None, 1e-5)],
    aten.linear.default: [(X, torch.rand(3, 6)), (X, torch.rand(3, 6), torch.rand(3))],
    aten.masked_fill.Scalar: [(X, X > 0.5, float("-inf"))],
    aten.matmul.default: [(X, torch.rand(6, 3))],
    aten.max_pool2d.default: [(IMAGES, [3, 3], [2, 2], [1, 1]), (IMAGES, [2, 2], [2, 2], [0, 0], [1, 1], True)],
    aten.mean.dim: [(X, [1, 2], True), (X, [-1]), (torch.arange(6), [0], {"dtype": torch.float32})],
    aten.mul.Tensor: [(X, Y), (X, 0.125), (torch.arange(6, dtype=torch.int8), 2), (X.half(), 2.5)],
    aten.neg.default: [(X,)],
    aten.permute.default: [(X, [2, 0, 1])],
    aten.pow.Tensor_Scalar: [(X, 2), (X, 0.5)],
    aten.relu.default: [(X,)],
    aten.relu_.default: [(X,)],
    aten.reshape.default: [(X, [2, -1]), (X, [48])],
    aten.rms_norm.default: [(X, [6], ONES, 1e-6), (X, [6])],
    aten.rsqrt.default: [(X,)],
    aten.scaled_dot_product_attention.default: [
        (HEADS, HEADS, HEADS),
        (HEADS, HEADS, HEADS, None, 0.0, True),
        (HEADS, HEADS, HEADS, torch.ones(5, 5, dtype=torch.bool), {"scale": 0.3}),
        (HEADS, HEADS[:, :2], HEADS[:, :2], {"enable_gqa": True}),
    ],
    aten.select.int: [(X, 1, 0), (X, -1, -1)],
    aten.sigmoid.default: [(X,)],
    aten.silu.default: [(X,)],
    aten.sin.default: [(X,)],
    aten.softmax.int: [(X, -1), (X.half(), -1, torch.float32)],
    aten.sqrt.default: [(X,)],
    aten.squeeze.dim: [(torch.rand(2, 1), 1)],
    aten.stack.default: [([X, Y], 1), ([X, Y],)],
    aten.sub.Tensor: [(X, Y), (X, 1), (X, Y, {"alpha": 2})],
    aten.sum.dim_IntList: [(X, [1]), (X, [1, 2], True), (X, [0], {"dtype": torch.float64})],
    aten.sym_size.int: [(X, 1), (X, -1)],
    aten.tanh.default: [(X,)],
    aten.to.dtype: [(X, torch.float64), (X, torch.float32, False, True)],
    aten.transpose.int: [(X, 1, 2), (X, -1, 0)],
    aten.unsqueeze.default: [(X, 0), (X, -1)],
    aten.view.default: [(X, [2, 24]), (X, [-1])],
    aten.where.self: [(X > 0.5, X, Y), (X > 0.5, X, torch.tensor(0.0))],
}


def test_every_entry_is_tried() -> None:
    assert CALLS.keys() == METHODS | FUNCTIONS.keys() | {aten.sym_size.int}


def call(target: OpOverload, arguments: Arguments, *, publicly: bool) -> Callable[..., Any]:
    """A function of the tensors among the arguments, whose graph calls the overload or what stands for it."""
    *args, last = arguments
    kwargs = last if isinstance(last, dict) else {}
    args = args if isinstance(last, dict) else [*args, last]
    graph = Graph()
    given = [graph.placeholder(f"x{at}") for at in range(len(tensors(arguments)))]
    left = iter(given)
    said = [
        next(left) if isinstance(each, Tensor) else [next(left) for _ in each] if _has_tensors(each) else each
        for each in args
    ]
    node = graph.call_function(target, tuple(said), dict(kwargs))
    if publicly:
        call_publicly(node)
        assert node.target is not target
    graph.output(node)
    module = torch.fx.GraphModule({}, graph)
    return lambda *inputs: module(*inputs)


def tensors(arguments: Arguments) -> list[Tensor]:
    flat = [inner for each in arguments for inner in (each if isinstance(each, list) else [each])]
    return [each.clone() for each in flat if isinstance(each, Tensor)]


def _has_tensors(value: Any) -> bool:
    return isinstance(value, list) and isinstance(value[0], Tensor)


@pytest.mark.parametrize("target", CALLS, ids=str)
def test_the_same_overload_is_called_with_the_same_arguments(target: OpOverload) -> None:
    for arguments in CALLS[target]:
        functions = [call(target, arguments, publicly=publicly) for publicly in (False, True)]
        found = [function(*tensors(arguments)) for function in functions]
        assert type(found[0]) is type(found[1])
        if target == aten.sym_size.int:
            assert found[0] == found[1]
            continue
        assert torch.equal(*found)
        assert found[0].stride() == found[1].stride()
        recorded = [make_fx(function, pre_dispatch=True)(*tensors(arguments)) for function in functions]
        assert recorded[0].code == recorded[1].code
        assert [node.target for node in recorded[0].graph.nodes if node.op == "call_function"] == [target]


def test_what_has_no_entry_or_other_arguments_stays() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    kept = [
        graph.call_function(aten.arange.default, (3,)),
        graph.call_function(aten.slice.Tensor, (x, 0, 0, 2)),
        graph.call_function(aten.transpose.int, (x,), {"dim0": 0, "dim1": 1}),
        graph.call_function(aten.mul.Tensor, (2.0, x)),
        graph.call_function(aten.to.dtype, (x, torch.float64, False, False, torch.channels_last)),
        graph.call_function(torch.add, (x, x)),
    ]
    for node in kept:
        before = node.op, node.target
        call_publicly(node)
        assert (node.op, node.target) == before
    assert isinstance(x, Node)


@pytest.mark.parametrize("doubled", [False, True])
def test_sizes_that_overloads_read_are_no_methods(doubled: bool) -> None:
    graph = Graph()
    x = graph.placeholder("x")
    size, other = (graph.call_function(aten.sym_size.int, (x, 0)) for _ in range(2))
    read = graph.call_function(operator.mul, (size, 2)) if doubled else size
    graph.call_function(aten.reshape.default, (x, [read, -1]))
    graph.call_function(aten.reshape.default, (x, [other, -1]))
    graph.call_function(aten.arange.default, (read,))
    for node in (size, other):
        call_publicly(node, node.users)
    assert (size.op, size.target) == ("call_function", aten.sym_size.int)
    assert (other.op, other.target) == ("call_method", "size")
