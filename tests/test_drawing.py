from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from fxprune.analysis import Analysis, analyze
from fxprune.drawing import SUFFIXES, draw
from fxprune.errors import InputError
from fxprune.lanes import lay_out

SVG = "{http://www.w3.org/2000/svg}"


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.expand = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.project = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.norm(self.depthwise(self.expand(x))).relu())
        head: Tensor = self.head(x.mean((2, 3)))
        return head


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(Separable(), torch.randn(2, 3, 6, 6))


def test_modules_are_rows_and_groups_are_lanes(analysis: Analysis) -> None:
    lanes = lay_out(analysis)
    names = [row.name for row in lanes.rows]
    assert names == ["stem", "expand", "depthwise", "project", "head"]
    stops = {lane.facts.name: [(names[stop.row], stop.role) for stop in lane.stops] for lane in lanes.lanes}
    assert stops["stem"] == [("stem", "makes"), ("expand", "takes"), ("project", "makes"), ("head", "takes")]
    assert stops["expand"] == [("expand", "makes"), ("depthwise", "passes"), ("project", "takes")]
    assert lanes.columns == 2
    assert lanes.rows[-1].pinned == ("4: model output",)


def test_lanes_that_do_not_overlap_share_a_column() -> None:
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6)))
    lanes = lay_out(analyze(model, torch.randn(2, 6)))
    assert len(lanes.lanes) == 5
    assert lanes.columns == 2
    for column in range(2):
        spans = sorted((lane.stops[0].row, lane.stops[-1].row) for lane in lanes.lanes if lane.column == column)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_a_group_without_matrices_still_has_a_row() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return (x.mean(-1, keepdim=True) * self.scale).sum(-1)

    lanes = lay_out(analyze(Scaled(), torch.randn(2, 3)))
    assert [row.name for row in lanes.rows] == ["scale"]


def test_svg_is_well_formed_and_names_everything(analysis: Analysis, tmp_path: Path) -> None:
    root = ET.parse(draw(analysis, tmp_path / "a.svg")).getroot()
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {"stem", "depthwise", "pinned 4: model output"} <= texts
    tips = {element.text for element in root.iter(f"{SVG}title")}
    assert any(tip and tip.startswith("expand: 16 channels") for tip in tips)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".dot", b"graph {")])
def test_pictures(analysis: Analysis, tmp_path: Path, suffix: str, start: bytes) -> None:
    if suffix in (".png", ".pdf"):
        pytest.importorskip("matplotlib")
    path = draw(analysis, tmp_path / f"a{suffix}")
    assert path.read_bytes().startswith(start)


def test_graphs_come_back(analysis: Analysis, tmp_path: Path) -> None:
    graph = analysis.graph
    data = json.loads(draw(analysis, tmp_path / "a.json").read_text())
    again = nx.node_link_graph(data, edges="edges")
    assert set(again) == set(graph)
    assert again.number_of_edges() == graph.number_of_edges()
    assert again.nodes["stem.weight[0]"] == graph.nodes["stem.weight[0]"]
    read = nx.read_graphml(draw(analysis, tmp_path / "a.graphml"))
    assert set(read) == set(graph)
    assert read.nodes["stem.weight[0]"]["size"] == 8


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_an_unknown_suffix_names_the_known_ones(analysis: Analysis, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=", ".join(SUFFIXES)):
        draw(analysis, tmp_path / name)


def test_a_missing_folder_is_said(analysis: Analysis, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        draw(analysis, tmp_path / "none" / "a.svg")


def test_a_failed_write_leaves_the_old_file(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.svg"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("fxprune.drawing.os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        draw(analysis, path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.svg"]
    assert path.read_text() == "old"
