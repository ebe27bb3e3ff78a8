from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from fxprune.cli.drawing import draw
from fxprune.errors import InputError


@pytest.fixture
def graph() -> nx.MultiGraph[Any]:
    graph = nx.MultiGraph()
    graph.add_node(("conv.weight", 0), size=8, indices="channels", group="conv", pinned=None)
    graph.add_edge(("conv.weight", 0), ("conv", 1), operation="conv2d <aten>", reason=("a", 1))
    graph.add_edge(("conv.weight", 0), ("conv", 1), operation="add")
    graph.add_edge(("x", 0), ("x", 0), operation="itself")
    return graph


def test_svg_shows_coupled_axes_and_operations(graph: nx.MultiGraph[Any], tmp_path: Path) -> None:
    draw(graph, tmp_path / "graph.svg")
    root = ET.parse(tmp_path / "graph.svg").getroot()
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert texts[0] == "conv: 8 channels"
    assert "conv.weight" in texts[1]
    assert len(texts) == 3
    assert [title.split(",")[0] for title in titles] == ["operation: conv2d <aten>", "operation: add"]


def test_json_is_read_back(graph: nx.MultiGraph[Any], tmp_path: Path) -> None:
    draw(graph, tmp_path / "graph.json")
    data = json.loads((tmp_path / "graph.json").read_text())
    again = nx.node_link_graph(data, edges="links")
    assert again.number_of_nodes() == graph.number_of_nodes()
    assert again.number_of_edges() == graph.number_of_edges()


def test_graphml_is_read_back(graph: nx.MultiGraph[Any], tmp_path: Path) -> None:
    draw(graph, tmp_path / "graph.graphml")
    again = nx.read_graphml(tmp_path / "graph.graphml", force_multigraph=True)
    assert again.number_of_edges() == graph.number_of_edges()
    assert again.nodes["('conv.weight', 0)"]["size"] == 8


def test_other_formats_are_refused(graph: nx.MultiGraph[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.svg, \.json, \.graphml"):
        draw(graph, tmp_path / "graph.png")
