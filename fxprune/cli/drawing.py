"""Files of a coupling graph: SVG to look at, JSON and GraphML for other programs.

The SVG is an arc diagram: one line of text for each axis, the axes of a connected component (a dependency group) below
each other, an arc for each operation that couples two of them; pointing at an arc names the operation. It stays
readable for thousands of axes, needs no layout to converge, and is the same on every run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["DRAWERS", "check_format", "draw"]

LINE_HEIGHT = 16
GAP = 16
MARGIN = 24
TEXT_WIDTH = 640
WIDEST_ARC = 240
STYLE = """<style>
text { font: 11px monospace }
.heading { font-weight: bold }
path { fill: none; stroke: #1f77b4; stroke-opacity: 0.5 }
path:hover { stroke: #d62728; stroke-width: 3 }
</style>"""


def draw(graph: nx.MultiGraph[Any], path: Path) -> None:
    """Write a graph in the format that the suffix of `path` names.

    Raises:
        InputError: There is no such format.
    """
    check_format(path)
    path.write_text(DRAWERS[path.suffix](graph), encoding="utf-8")


def check_format(path: Path) -> None:
    """Make sure that the suffix of `path` names a format.

    Raises:
        InputError: It does not.
    """
    if path.suffix not in DRAWERS:
        raise InputError(f"Graphs are drawn to files that end in {', '.join(DRAWERS)}; {path} does not.")


def to_json(graph: nx.MultiGraph[Any]) -> str:
    """Write nodes and links as `networkx.node_link_graph` reads them."""
    import networkx as nx

    return json.dumps(nx.node_link_data(_as_text(graph), edges="links"), indent=1) + "\n"


def to_graphml(graph: nx.MultiGraph[Any]) -> str:
    """Write GraphML, which yEd, Gephi and Cytoscape read."""
    import networkx as nx

    return "\n".join(nx.generate_graphml(_as_text(graph))) + "\n"


def to_svg(graph: nx.MultiGraph[Any]) -> str:
    """Draw an arc diagram of the components that have any edge."""
    import networkx as nx

    order = {node: position for position, node in enumerate(graph)}
    components = [sorted(nodes, key=order.__getitem__) for nodes in nx.connected_components(graph) if len(nodes) > 1]
    body: list[str] = []
    rows: dict[Any, int] = {}
    top = MARGIN
    for component in sorted(components, key=lambda nodes: order[nodes[0]]):
        body.append(f'<text class="heading" x="{MARGIN}" y="{top + 4}">{escape(_heading(graph, component))}</text>')
        top += LINE_HEIGHT
        for node in component:
            rows[node] = top
            body.append(f'<text x="{MARGIN + WIDEST_ARC}" y="{top + 4}">{escape(str(node))}</text>')
            top += LINE_HEIGHT
        top += GAP
    body += [_arc(rows[a], rows[b], _label(data)) for a, b, data in graph.edges(data=True) if a != b]
    width = 2 * MARGIN + WIDEST_ARC + TEXT_WIDTH
    size = f'width="{width}" height="{top + MARGIN}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', STYLE, *body, "</svg>\n"])


def _heading(graph: nx.MultiGraph[Any], component: Sequence[Any]) -> str:
    """Name the dependency group that a component is, or say why it is none."""
    node = graph.nodes[component[0]]
    size = f"{node.get('size', '?')} {node.get('indices', 'indices')}"
    if node.get("group"):
        return f"{node['group']}: {size}"
    return f"{size}, pinned: {node['pinned']}" if node.get("pinned") else f"{size}, of no parameter"


def _arc(start: int, end: int, label: str) -> str:
    """Bulge to the left of the text, the further the longer, as far as there is room."""
    foot = MARGIN + WIDEST_ARC - 6
    reach = foot - min(abs(end - start) * 2 // 3, WIDEST_ARC * 4 // 3)
    curve = f"M {foot} {start} C {reach} {start}, {reach} {end}, {foot} {end}"
    return f'<path d="{curve}"><title>{escape(label)}</title></path>'


def _label(attributes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in attributes.items() if value not in (None, ""))


def _as_text(graph: nx.MultiGraph[Any]) -> nx.MultiGraph[Any]:
    """Copy the graph with nodes and attributes that every format can hold."""
    import networkx as nx

    names = {node: str(node) for node in graph}
    assert len(set(names.values())) == len(names), "two nodes read the same"
    copy = nx.MultiGraph()
    copy.add_nodes_from((names[node], _plain(data)) for node, data in graph.nodes(data=True))
    copy.add_edges_from((names[a], names[b], _plain(data)) for a, b, data in graph.edges(data=True))
    return copy


def _plain(attributes: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in attributes.items()
        if value is not None
    }


DRAWERS: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {".svg": to_svg, ".json": to_json, ".graphml": to_graphml}
)
