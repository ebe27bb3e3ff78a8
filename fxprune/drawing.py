"""Files that show an analysis: pictures to look at, the coupling graph for other programs.

    .svg .png .pdf     dependency groups as lanes over the modules (`fxprune.lanes`); SVG needs no further library
    .dot               modules and groups as a graph for Graphviz
    .json .graphml     the whole coupling graph (`fxprune.coupling`), axis by axis

Files appear whole or not at all: each is written beside its place and then moved there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fxprune.canvas import Canvas, Label, Line, Mark, Shape, to_image, to_svg
from fxprune.errors import InputError
from fxprune.lanes import Lane, Lanes, Role, Row, lay_out

if TYPE_CHECKING:
    from fxprune.analysis import Analysis

_ROW, _COLUMN, _TOP, _MARGIN, _LETTER = 19.0, 34.0, 112.0, 16.0, 6.6
_LEAST_WIDTH, _LONGEST_TYPE = 660.0, 18
_INK, _FAINT, _GUIDE = "#222222", "#767676", "#eeeeee"
_COLOURS = {
    "channels": "#0072B2",
    "features": "#D55E00",
    "heads": "#009E73",
    "key/value groups": "#009E73",
    "query heads per group": "#7A5195",
    "query/key dimensions": "#E69F00",
    "value dimensions": "#56B4E9",
    "groups": "#CC79A7",
}
_OTHER = "#8C564B"


def draw(analysis: Analysis, path: str | Path) -> Path:
    """Write what an analysis found to a file whose suffix says how.

    Args:
        analysis: what to show.
        path: ends in .svg, .png, .pdf (pictures of groups and modules), .dot (the same for Graphviz), .json or .graphml
            (the whole coupling graph).

    Returns:
        The path written.

    Raises:
        InputError: the suffix is none of these, there is no such folder, or .png or .pdf would need matplotlib.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    writer = _WRITERS.get(suffix)
    if writer is None:
        what = f"{suffix} files" if suffix else "files without a suffix"
        raise InputError(f"cannot write {what} ({path}); give the name one of the suffixes {', '.join(SUFFIXES)}")
    _write(path, writer(analysis, suffix))
    return path


def picture(lanes: Lanes) -> Canvas:
    """The lanes as shapes."""
    types = _MARGIN + 12 + _LETTER * max((len(row.name) for row in lanes.rows), default=0)
    left = types + 6 + _LETTER * max((len(_short(row.kind)) for row in lanes.rows), default=0)
    right = left + _COLUMN * (lanes.columns + 0.5)
    notes = max((len(_note(row)) for row in lanes.rows), default=0)
    width = max(right + _LETTER * notes + _MARGIN, _LEAST_WIDTH)
    height = _TOP + _ROW * len(lanes.rows) + _MARGIN
    shapes = (*_heading(lanes), *_rows(lanes, types, left, right), *_lanes(lanes, left))
    return Canvas(width, height, shapes)


def _short(kind: str) -> str:
    return kind if len(kind) <= _LONGEST_TYPE else f"{kind[: _LONGEST_TYPE - 1]}\N{HORIZONTAL ELLIPSIS}"


def _note(row: Row) -> str:
    return f"pinned {'; '.join(row.pinned)}" if row.pinned else ""


def _heading(lanes: Lanes) -> Iterator[Shape]:
    summary = lanes.summary
    yield Label((_MARGIN, 22), f"{summary.model}: {len(summary.groups)} dependency groups", 17, _INK, bold=True)
    held = f"{summary.prunable:,} of {summary.parameters:,} parameters"
    text = f"{held} are part of one; the wider a lane, the more it holds"
    yield Label((_MARGIN, 44), text, 11.5, _FAINT)
    x = _MARGIN + 6
    for role, text in (("makes", "makes its indices"), ("takes", "takes them"), ("passes", "passes them on")):
        yield _mark((x, 68), cast("Role", role), _INK, "")
        yield Label((x + 12, 68), text, 11.5, _INK)
        x += 30 + _LETTER * len(text)
    x = _MARGIN
    for kind in dict.fromkeys(group.kind for group in summary.groups):
        yield Line((x, 90), (x + 18, 90), _colour(kind), 4)
        yield Label((x + 24, 90), kind, 11.5, _INK)
        x += 46 + _LETTER * len(kind)


def _rows(lanes: Lanes, types: float, left: float, right: float) -> Iterator[Shape]:
    touched = {stop.row for lane in lanes.lanes for stop in lane.stops}
    for at, row in enumerate(lanes.rows):
        y = _height(at)
        yield Label((_MARGIN, y), row.name, 11, _INK if at in touched else _FAINT)
        yield Label((types, y), _short(row.kind), 10, _FAINT)
        yield Line((left, y), (right - 6, y), _GUIDE, 1)
        if row.pinned:
            yield Label((right, y), _note(row), 10, _FAINT)


def _lanes(lanes: Lanes, left: float) -> Iterator[Shape]:
    most = max((lane.facts.parameters for lane in lanes.lanes), default=1) or 1
    for lane in lanes.lanes:
        yield from _lane(lane, left + _COLUMN * (lane.column + 0.5), 1.5 + 6 * sqrt(lane.facts.parameters / most))


def _lane(lane: Lane, x: float, width: float) -> Iterator[Shape]:
    facts, colour = lane.facts, _colour(lane.facts.kind)
    nested = f", chosen anew for each of {facts.nested_under}" if facts.nested_under else ""
    tip = f"{facts.name}: {facts.size} {facts.kind}, {facts.axes} axes, {facts.parameters:,} parameters{nested}"
    first, last = lane.stops[0].row, lane.stops[-1].row
    yield Line((x, _height(first)), (x, _height(last)), colour, width, tip)
    for stop in lane.stops:
        yield _mark((x, _height(stop.row)), stop.role, colour, tip)
    yield Label((x + 6, _height(first) - 8), str(facts.size), 9, colour)


def _mark(at: tuple[float, float], role: Role, colour: str, tip: str) -> Mark:
    if role == "passes":
        return Mark(at, 3.6, "white", colour, square=True, tip=tip)
    if role == "makes":
        return Mark(at, 5, colour, "white", tip=tip)
    return Mark(at, 4.4, "white", colour, tip=tip)


def _height(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _colour(kind: str) -> str:
    return _COLOURS.get(kind, _OTHER)


def _svg(analysis: Analysis, _: str) -> bytes:
    return to_svg(picture(lay_out(analysis)))


def _image(analysis: Analysis, suffix: str) -> bytes:
    return to_image(picture(lay_out(analysis)), suffix)


def _dot(analysis: Analysis, _: str) -> bytes:
    lanes = lay_out(analysis)
    lines = ["graph {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
    lines += [f"  {_quoted(row.name)} [shape=box];" for row in lanes.rows]
    for lane in lanes.lanes:
        name, label = _quoted(f"group {lane.facts.name}"), _quoted(f"{lane.facts.size} {lane.facts.kind}")
        lines.append(f'  {name} [shape=ellipse, label={label}, color="{_colour(lane.facts.kind)}"];')
        lines += [f"  {name} -- {_quoted(lanes.rows[stop.row].name)} [label={stop.role}];" for stop in lane.stops]
    return "\n".join([*lines, "}", ""]).encode()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(analysis: Analysis, _: str) -> bytes:
    import networkx as nx

    return json.dumps(nx.node_link_data(analysis.graph, edges="edges"), indent=1).encode()


def _graphml(analysis: Analysis, _: str) -> bytes:
    """GraphML has no null and no mappings: what is None is left out, as are the names of tied tensors."""
    import networkx as nx

    full = analysis.graph
    graph = nx.MultiGraph(model=full.graph["model"])
    graph.add_nodes_from((name, _present(at)) for name, at in full.nodes(data=True))
    graph.add_edges_from((a, b, _present(at)) for a, b, at in full.edges(data=True))
    file = BytesIO()
    nx.write_graphml(graph, file)
    return file.getvalue()


def _present(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _write(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_WRITERS: dict[str, Callable[[Analysis, str], bytes]] = {
    ".svg": _svg,
    ".png": _image,
    ".pdf": _image,
    ".dot": _dot,
    ".json": _json,
    ".graphml": _graphml,
}

SUFFIXES = tuple(_WRITERS)
"""Suffixes that `draw` understands."""
