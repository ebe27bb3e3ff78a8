"""What graphs show of sizes is so for any inputs, and nothing else is taken for known."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch.fx import Graph, Node
from torch.nn import functional

from fxprune.passes.sizes import Sizes, sizes_of

aten = torch.ops.aten


def known(node: Node) -> Sizes | None:
    return sizes_of(node, known)


def call(graph: Graph, target: Any, *args: Any) -> Node:
    return graph.call_function(target, args)


def test_rearranging_keeps_what_is_known() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    rows = call(graph, aten.sym_size.int, x, 0)
    assert known(x) is None
    heads = call(graph, aten.reshape.default, x, [3, rows, -1, 8])
    assert known(heads) == [3, rows, None, 8]
    assert known(call(graph, aten.clone.default, heads)) == [3, rows, None, 8]
    assert known(call(graph, aten.transpose.int, heads, 0, -1)) == [8, rows, None, 3]
    assert known(call(graph, aten.permute.default, heads, [1, 0, -1, 2])) == [rows, 3, 8, None]
    assert known(call(graph, operator.getitem, call(graph, aten.unbind.int, heads), 0)) == [rows, None, 8]
    assert known(call(graph, operator.getitem, call(graph, aten.unbind.int, heads, 1), 0)) is None
    assert known(call(graph, aten.relu.default, heads)) is None
    assert known(call(graph, aten.reshape.default, heads, (rows, 24))) == [rows, 24]
    assert known(heads) == [3, rows, None, 8]


OPERANDS: dict[str, tuple[list[int], list[int], list[int | None]]] = {
    "the same": ([2, 4, 7, 8], [2, 4, 5, 8], [2, 4, 7, 8]),
    "queries for all of the batch": ([1, 4, 7, 8], [2, 4, 5, 8], [2, 4, 7, 8]),
    "keys for all of the batch": ([2, 4, 7, 8], [1, 4, 5, 8], [2, 4, 7, 8]),
    "a key head for all": ([2, 4, 7, 8], [2, 1, 5, 8], [2, 4, 7, 8]),
    "one": ([1, 4, 7, 8], [1, 4, 5, 8], [1, 4, 7, 8]),
    "a size that is computed": ([-1, 4, 7, 8], [2, 4, 5, 8], [None, 4, 7, 8]),
    "sizes that are computed": ([-1, 4, 7, 8], [-1, 4, 5, 8], [None, 4, 7, 8]),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_attention_has_the_sizes_that_its_operands_are_brought_to(name: str) -> None:
    query, key, expected = OPERANDS[name]
    graph = Graph()
    asked = [call(graph, aten.reshape.default, graph.placeholder("x"), sizes) for sizes in (query, key, key)]
    attention = call(graph, aten.scaled_dot_product_attention.default, *asked)
    assert known(attention) == expected
    first, second = (torch.randn([2 if each == -1 else each for each in sizes]) for sizes in (query, key))
    found = functional.scaled_dot_product_attention(first, second, second).shape
    assert all(said in {None, size} for said, size in zip(expected, found, strict=True))


def test_of_operands_that_differ_nothing_is_taken_for_known() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    rows, columns = (call(graph, aten.sym_size.int, x, at) for at in (0, 1))

    def attention(*sizes: list[Any]) -> Node:
        asked = [call(graph, aten.reshape.default, x, each) for each in sizes]
        return call(graph, aten.scaled_dot_product_attention.default, *asked)

    assert known(attention([rows, 4, 7, 8], [columns, 4, 5, 8], [columns, 4, 5, 8])) == [None, 4, 7, 8]
    assert known(attention([rows, 4, 7, 8], [rows, 4, 5, 8], [rows, 4, 5, 6])) == [rows, 4, 7, 6]
    assert known(attention([rows, 4, 7, 8], [rows, 2, 5, 8], [rows, 2, 5, 8])) == [rows, None, 7, 8]
    assert known(attention([rows, 4, 7, 8], [4, 5, 8], [4, 5, 8])) is None
    assert known(call(graph, aten.scaled_dot_product_attention.default, x, x, x)) is None
