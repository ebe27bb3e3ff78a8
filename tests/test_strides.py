"""Layouts are left alone where somebody looks at memory, and outputs that were contiguous stay so."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.nn import functional

import fxprune
from fxprune import pruning
from fxprune.passes.layout import simplify_layout
from fxprune.passes.strides import looks_at_memory
from tests.emitted import as_emitted, laid_out

aten = torch.ops.aten


@torch.library.custom_op("fxprune_tests::reversed_memory", mutates_args=())
def reversed_memory(x: Tensor) -> Tensor:
    """Numbers in the order that they lie in memory, backwards."""
    assert x.is_contiguous(), "written for contiguous tensors"
    return x.flatten().flip(0).reshape(x.shape)


@reversed_memory.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


class Looking(nn.Module):
    """A linear layer behind a transposition, and something that looks at where its result lies."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.swapped, self.up, self.down = nn.Linear(8, 6), nn.Linear(8, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        swapped = self.swapped(x.transpose(0, 1)).relu()
        if self.kind == "as_strided":
            swapped = swapped.as_strided(swapped.shape, (swapped.shape[1] * 6, 6, 1))
        elif self.kind == "another's operation":
            swapped = reversed_memory(swapped)
        out: Tensor = swapped + self.down(self.up(x).relu()).mean()
        return out


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("kind", ["as_strided", "another's operation", "nothing"])
def test_what_looks_at_memory_sees_it_as_it_was(kind: str, verify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Looking(kind).eval(), torch.randn(3, 7, 8)
    with monkeypatch.context() as patch:
        patch.setattr(pruning, "lay_out", lambda slim, inputs: None)
        plain = fxprune.compile(model, 0.8, example_inputs=x, verify=verify, progress=False)
    slim = fxprune.compile(model, 0.8, example_inputs=x, verify=verify, progress=False)
    torch.testing.assert_close(slim(x), plain(x))
    assert slim(x).is_contiguous()


class Classifier(nn.Module):
    """Attention, and a linear layer whose result is returned."""

    def __init__(self, first: bool, swap: bool) -> None:
        super().__init__()
        self.swap = swap
        self.attention = nn.MultiheadAttention(32, 4, batch_first=first)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(self.attention(x, x, x, need_weights=False)[0])
        if self.swap:
            return found, found.transpose(0, 1).relu().transpose(0, 1)
        return found, found.relu()


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_outputs_stay_contiguous(first: bool, swap: bool) -> None:
    torch.manual_seed(0)
    model, x = Classifier(first, swap).eval(), torch.randn(3, 7, 32)
    slim = fxprune.compile(model, 0.7, example_inputs=x, progress=False)
    for each in slim(x):
        each.view(-1, 5)


class LengthFirst(nn.Module):
    """Attention whose result is turned back to how PyTorch computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return found.relu().transpose(0, 1)


def test_what_is_turned_back_stays_contiguous() -> None:
    torch.manual_seed(0)
    model, x = LengthFirst().eval(), torch.randn(3, 7, 32)
    module, changed = laid_out(model, x)
    assert changed
    assert module(x).is_contiguous()


class Overwritten(nn.Module):
    """A packed projection that is written to after its parts were copied."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.activation, self.out = nn.Linear(8, 64), nn.ReLU(inplace=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed(x).unflatten(-1, (2, 32))
        parts = packed.unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
        self.activation(packed)
        out: Tensor = self.out(parts[0] * parts[1] + packed.sum(-2))
        return out


def test_parts_that_were_copied_do_not_follow_what_is_written_later() -> None:
    torch.manual_seed(0)
    laid_out(Overwritten().eval(), torch.randn(3, 7, 8))


def test_activations_in_place_of_what_nobody_else_reads_are_no_matter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
    module = as_emitted(model.eval(), torch.randn(1, 3, 4, 4))
    assert not any(looks_at_memory(module, node) for node in module.graph.nodes)


class Broadcast(nn.Module):
    """Attention of queries or keys that all of the batch shares."""

    def __init__(self, queries: int, keys: int, size: int) -> None:
        super().__init__()
        self.queries, self.keys, self.size = queries, keys, size
        self.query, self.key, self.out = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(size, 5)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x[: self.queries]).reshape(self.queries, 7, 4, 8).transpose(1, 2)
        key = self.key(x[: self.keys]).reshape(self.keys, 7, 4, 8).transpose(1, 2)
        query, key = query.reshape(self.queries, 4, 7, 8), key.reshape(self.keys, 4, 7, 8)
        found = functional.scaled_dot_product_attention(query, key, key).permute(2, 0, 1, 3)
        out: Tensor = self.out(found.reshape(7, 64 // self.size, self.size)).transpose(0, 1)
        return out


@pytest.mark.parametrize(("queries", "keys", "size"), [(1, 2, 64), (1, 2, 32), (2, 1, 64), (2, 1, 32)])
def test_attention_that_broadcasts_computes_the_same(queries: int, keys: int, size: int) -> None:
    torch.manual_seed(0)
    laid_out(Broadcast(queries, keys, size).eval(), torch.randn(2, 7, 8))


def with_values(graph: Graph, **shapes: Any) -> None:
    """Give nodes what a capture knows of them."""
    origins = Graph()
    for node in graph.nodes:
        if node.name in shapes:
            node.meta["origin"] = origins.placeholder(node.name)
            node.meta["origin"].meta["val"] = torch.empty(shapes[node.name])


def test_parts_along_another_dimension_are_not_taken_for_the_first() -> None:
    root, graph = nn.Module(), Graph()
    x = graph.placeholder("x")
    split = graph.call_function(aten.reshape.default, (x, [3, 2, 2, 2, 4]))
    part = graph.call_function(operator.getitem, (graph.call_function(aten.unbind.int, (split, 2)), 0))
    moved = graph.call_function(aten.permute.default, (part, [0, 1, 2, 3]))  # sizes 3, 2, 2, 4
    merged = graph.call_function(aten.reshape.default, (moved, [2, 2, 12]))
    graph.output(graph.call_function(aten.transpose.int, (graph.call_module("out", (merged,)), 0, 1)))
    root.out = nn.Linear(12, 5)
    module, x_value = GraphModule(root, graph), torch.randn(3, 2, 16)
    before = module(x_value)
    simplify_layout(module)
    assert torch.equal(module(x_value), before)


def test_all_of_some_parts_are_not_all_parts() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    packed = graph.call_function(aten.unflatten.int, (x, 1, [2, 3]))  # of three parts, the first two are taken
    taken = []
    for at in range(2):
        select = graph.call_function(aten.select.int, (packed, -2, at))
        heads = graph.call_function(aten.reshape.default, (select, [5, 2, 4, 2]))
        taken.append(graph.call_function(aten.permute.default, (heads, [1, 2, 0, 3])))
    graph.output(tuple(taken))
    with_values(graph, **{packed.name: (5, 2, 3, 8)})
    module, value = GraphModule(nn.Module(), graph), torch.randn(5, 6, 8)
    before = module(value)
    simplify_layout(module)
    assert all(torch.equal(*pair) for pair in zip(module(value), before, strict=True))
