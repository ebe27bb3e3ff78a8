from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.coupling import coupling_graph
from fxprune.errors import InputError
from fxprune.explanation import why, why_pinned
from fxprune.groups import find_groups
from fxprune.program import Program
from fxprune.propagate import Propagation, propagate

Axes = frozenset[tuple[str, int]]


class Residual(nn.Module):
    """Two convolutions on a residual stream, a gate whose halves are parts of one axis, a tied pair of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.gate = nn.Linear(8, 10)
        self.encode = nn.Linear(5, 6, bias=False)
        self.decode = nn.Linear(6, 5, bias=False)
        self.shift = nn.Linear(5, 6, bias=False)
        self.shift.weight = self.encode.weight
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.second(self.first(x).relu()))
        a, b = self.gate(x.mean((2, 3))).chunk(2, dim=-1)
        x = a * b.sigmoid()
        x = self.decode(self.encode(x) + self.shift(x))
        head: Tensor = self.head(x)
        return head


def analyse(model: nn.Module, inputs: Any = None) -> tuple[Program, Propagation]:
    program = capture(model, inputs)
    return program, propagate(program, {})


@pytest.fixture(scope="module")
def graph() -> nx.MultiGraph[Any]:
    return coupling_graph(*analyse(Residual(), torch.randn(2, 3, 6, 6)))


def components(graph: nx.MultiGraph[Any]) -> set[Axes]:
    """Tensor axes of each component that holds a free variable on an axis of a parameter."""
    found = set()
    for nodes in nx.connected_components(graph):
        own = [graph.nodes[node] for node in nodes]
        if any(at["kind"] == "parameter" and at["pinned"] is None for at in own):
            found.add(frozenset((at["tensor"], at["dim"]) for at in own if at["kind"] != "value"))
    return found


def groups(program: Program, propagation: Propagation) -> set[Axes]:
    return {
        frozenset((member.name, member.dim) for member in group.members) for group in find_groups(program, propagation)
    }


def test_components_are_the_dependency_groups() -> None:
    found = analyse(Residual(), torch.randn(2, 3, 6, 6))
    assert components(coupling_graph(*found)) == groups(*found)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mobilenet_v3_small", "vit_b_16", "shufflenet_v2_x1_0", "swin_t"]
)
def test_components_are_the_dependency_groups_of_real_models(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    program, propagation = analyse(models.get_model(name, weights=None))
    graph = coupling_graph(program, propagation)
    assert components(graph) == groups(program, propagation)
    assert graph.number_of_edges() < 3 * graph.number_of_nodes()
    for a, b in graph.edges():
        assert graph.nodes[a]["group"] == graph.nodes[b]["group"]


def test_nodes_say_what_they_are(graph: nx.MultiGraph[Any]) -> None:
    at = graph.nodes["first.weight[0]"]
    assert (at["kind"], at["size"], at["indices"], at["group"]) == ("parameter", 12, "channels", "first")
    assert (at["pinned"], at["module"]) == (None, "first")
    assert graph.nodes["head.weight[0]"]["pinned"] == "model output"
    assert graph.nodes["norm.running_mean[0]"]["kind"] == "buffer"
    assert {"gate.weight[0].0", "gate.weight[0].1"} <= set(graph)


def test_edges_say_which_operation_it_was(graph: nx.MultiGraph[Any]) -> None:
    (edge,) = graph["first.weight[0]"]["%conv2d_1[1]"].values()
    assert (edge["op"], edge["module"]) == ("conv2d", "first")
    assert edge["source"].startswith("test_coupling.py:")
    assert edge["code"] == "x = x + self.norm(self.second(self.first(x).relu()))"


def test_why_tells_the_way_operation_by_operation(graph: nx.MultiGraph[Any]) -> None:
    found = why(graph, "stem.weight:0", "second.bias")
    assert (found.source, found.target, found.group) == ("stem.weight[0]", "second.bias[0]", "stem")
    assert [step.label for step in found.steps] == ["conv2d", "add (residual)", "batch_norm", "conv2d"]
    text = str(found).splitlines()
    assert text[0] == "stem.weight[0] and second.bias[0] are the same 8 channels (group stem):"
    assert text[1] == "  stem.weight[0]"
    assert "-> add (residual)  (the model itself)  test_coupling.py:" in text[3]
    assert text[-1] == "  second.bias[0]"


def test_why_takes_the_closest_of_all_axes(graph: nx.MultiGraph[Any]) -> None:
    found = why(graph, "first.weight", "second.weight")
    assert (found.source, found.target) == ("first.weight[0]", "second.weight[1]")
    assert why(graph, "first", "second").indices in ("12 channels", "8 channels")


def test_why_knows_all_names_of_a_tied_tensor(graph: nx.MultiGraph[Any]) -> None:
    assert why(graph, "shift.weight:0", "decode.weight:1").source == "encode.weight[0]"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("frist.weight", "head.weight", "did you mean first.weight"),
        ("first.weight:7", "head.weight", "first.weight has no axis 7 with more than one index; it has first.weight"),
        ("first.weight:0", "head.weight:1", "no chain of operations couples these axes"),
        ("first.weight:0", "first.weight[0]", "name the same axis"),
    ],
)
def test_why_says_what_is_wrong(graph: nx.MultiGraph[Any], a: str, b: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        why(graph, a, b)


def test_why_not_coupled_says_where_each_belongs(graph: nx.MultiGraph[Any]) -> None:
    with pytest.raises(InputError) as caught:
        why(graph, "first.weight:0", "head.weight:0")
    assert "first.weight[0] (12 channels, group first)" in str(caught.value)
    assert "head.weight[0] (4 features, pinned: model output)" in str(caught.value)


def test_why_pinned_leads_to_where_the_reason_arose(graph: nx.MultiGraph[Any]) -> None:
    (found,) = why_pinned(graph, "head.bias").axes
    assert (found.reason, found.operation) == ("model output", "output")
    assert [step.op for step in found.steps] == ["linear"]
    assert str(found).startswith("head.bias[0] keeps its 4 features: model output (operation output)\n  head.bias[0]\n")
    reasons = [axis.reason for axis in why_pinned(graph, "stem.weight").axes]
    assert reasons == ["model input", "kernel", "kernel"]


def test_why_pinned_of_a_free_axis_names_its_group(graph: nx.MultiGraph[Any]) -> None:
    with pytest.raises(InputError, match=r"norm is not pinned: norm.weight\[0\] \(8 channels, group stem\)"):
        why_pinned(graph, "norm")
