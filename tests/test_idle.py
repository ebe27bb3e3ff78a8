"""Views that show all of a tensor as it is are left out of slim models, and all others are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional

import fxprune
from fxprune.passes.idle import drop_idle_views

aten = torch.ops.aten
LAST = 2**63 - 1


class Viewed(nn.Module):
    """Attention over vectors [batch, length, 32], whose result a function views in some way."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.view = view
        self.qkv, self.up, self.down = nn.Linear(32, 96), nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (each.reshape(batch, length, -1, 8).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        found = self.view(functional.scaled_dot_product_attention(query, key, value))
        out: Tensor = self.down(torch.relu(self.up(found.transpose(1, 2).flatten(2))))
        return out


IDLE: dict[str, Callable[[Tensor], Tensor]] = {
    "everything": lambda x: x[:, :],
    "its own shape": lambda x: x.reshape(x.shape[0], -1, x.shape[2], 8),
    "expanded to nothing more": lambda x: x.expand(-1, -1, -1, -1),
}
NEEDED: dict[str, Callable[[Tensor], Tensor]] = {
    "other halves": lambda x: x.reshape(x.shape[0], -1, x.shape[2], 2, 4).flatten(3) * 1.0,
    "a part": lambda x: x[:, :, :, 0:4].repeat(1, 1, 1, 2),
}


def views(slim: fxprune.SlimModule) -> int:
    """Operations that look at tensors."""
    looks = (aten.slice.Tensor, aten.reshape.default, aten.view.default, aten.expand.default, aten.flatten.using_ints)
    return sum(node.target in looks for node in slim.graph.nodes)


@pytest.mark.parametrize("name", [*IDLE, *NEEDED])
def test_only_views_of_all_there_is_are_left_out(name: str) -> None:
    torch.manual_seed(0)
    model = Viewed((IDLE | NEEDED)[name]).eval()
    bare = Viewed(lambda x: x).eval()
    bare.load_state_dict(model.state_dict())
    x = torch.randn(2, 6, 32)
    slim, simple = (fxprune.compile(each, "60%", example_inputs=x) for each in (model, bare))
    assert (views(slim) == views(simple)) == (name in IDLE)
    applied = fxprune.apply(slim, model)
    for given in (torch.randn(3, 6, 32), torch.randn(1, 6, 32)):
        torch.testing.assert_close(slim(given), applied(given), rtol=1e-4, atol=1e-5)


def test_what_keeps_everything_is_equal_to_the_last_bit() -> None:
    torch.manual_seed(0)
    model = Viewed(IDLE["its own shape"]).eval()
    slim = fxprune.compile(model, 1.0, example_inputs=torch.randn(2, 6, 32))
    x = torch.randn(3, 6, 32)
    assert torch.equal(slim(x), model(x))


def test_a_bert_has_no_reshape_behind_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=60)).eval()
    slim = fxprune.compile(model, "60%", example_inputs=(torch.randint(0, 60, (2, 9)),))
    attention = [node for node in slim.graph.nodes if node.target == aten.scaled_dot_product_attention.default]
    assert [[user.target for user in node.users] for node in attention] == [[aten.transpose.int]] * 2
    assert not any(node.target == aten.slice.Tensor and node.args[2:] == (0, LAST) for node in slim.graph.nodes)
    monkeypatch.setattr("fxprune.pruning.drop_idle_views", lambda *_: None)
    former = fxprune.compile(model, "60%", example_inputs=(torch.randint(0, 60, (2, 9)),))
    assert len(former.graph.nodes) > len(slim.graph.nodes)
    tokens = torch.randint(0, 60, (3, 5))
    assert all(torch.equal(*each) for each in zip(slim(tokens).values(), former(tokens).values(), strict=True))


def graph_of(view: Callable[[Graph, Node, Node, Node], Node], *, returned: bool = False) -> tuple[Graph, Node]:
    """A graph that views an input reshaped to [rows, 4, columns], with rows and columns of another input, and reads that."""
    graph = Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    rows, columns = (graph.call_function(aten.sym_size.int, (y, at)) for at in (0, 1))
    source = graph.call_function(aten.reshape.default, (x, [rows, 4, columns]))
    found = view(graph, source, rows, columns)
    graph.output(found if returned else graph.call_function(aten.relu.default, (found,)))
    return graph, found


def test_sizes_are_known_where_an_operation_gave_them() -> None:
    def reshape(*sizes: int | str) -> Callable[[Graph, Node, Node, Node], Node]:
        def view(graph: Graph, source: Node, rows: Node, columns: Node) -> Node:
            named = {"rows": rows, "columns": columns}
            said = [named[each] if isinstance(each, str) else each for each in sizes]
            return graph.call_function(aten.reshape.default, (source, said))

        return view

    cases: dict[tuple[int | str, ...], bool] = {
        ("rows", 4, "columns"): True,
        (-1, 4, "columns"): True,
        ("rows", -1, "columns"): True,
        ("columns", 4, "rows"): False,
        ("rows", 5, "columns"): False,
        (7, 4, "columns"): False,
        ("rows", 4, "columns", 1): False,
        ("rows", -1): False,
    }
    for sizes, idle in cases.items():
        graph, found = graph_of(reshape(*sizes))
        drop_idle_views(graph, {})
        assert (found not in graph.nodes) is idle, sizes


def test_sizes_follow_transpositions() -> None:
    def view(graph: Graph, source: Node, rows: Node, columns: Node) -> Node:
        turned = graph.call_function(aten.transpose.int, (source, 0, -1))
        turned = graph.call_function(aten.permute.default, (turned, [1, 0, 2]))
        return graph.call_function(aten.reshape.default, (turned, [4, columns, rows]))

    graph, found = graph_of(view)
    drop_idle_views(graph, {})
    assert found not in graph.nodes


@pytest.mark.parametrize("arguments", [(), (0,), (1, 0, LAST), (1, None, None), (2, 0, LAST, 1)])
def test_slices_of_everything_go(arguments: tuple[int | None, ...]) -> None:
    graph, found = graph_of(lambda graph, source, *_: graph.call_function(aten.slice.Tensor, (source, *arguments)))
    drop_idle_views(graph, {})
    assert found not in graph.nodes


@pytest.mark.parametrize("arguments", [(1, 1, LAST), (1, 0, 4), (1, 0, LAST, 2), (1, -2)])
def test_slices_of_parts_stay(arguments: tuple[int, ...]) -> None:
    graph, found = graph_of(lambda graph, source, *_: graph.call_function(aten.slice.Tensor, (source, *arguments)))
    drop_idle_views(graph, {})
    assert found in graph.nodes


def test_what_is_returned_or_written_to_stays() -> None:
    def whole(graph: Graph, source: Node, *_: Node) -> Node:
        return graph.call_function(aten.slice.Tensor, (source, 0, 0, LAST))

    def written(graph: Graph, source: Node, *_: Node) -> Node:
        view = whole(graph, source)
        graph.call_function(aten.relu_.default, (view,))
        return view

    for graph, found in (graph_of(whole, returned=True), graph_of(written)):
        drop_idle_views(graph, {})
        assert found in graph.nodes


def test_buffers_have_the_sizes_that_they_have() -> None:
    for sizes, idle in {(1, -1): True, (-1, 6): True, (3, -1): False, (2, 1, 6): False}.items():
        graph = Graph()
        view = graph.call_function(aten.expand.default, (graph.get_attr("ids"), sizes))
        graph.output(graph.call_function(aten.relu.default, (view,)))
        drop_idle_views(graph, {"ids": torch.zeros(1, 6)})
        assert (view not in graph.nodes) is idle, sizes
