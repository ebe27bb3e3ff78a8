"""Shapes with coordinates in pixels, written as SVG by hand or drawn with matplotlib.

SVG needs no library, keeps its text searchable, and shows a shape's `tip` under the mouse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal, TypeAlias
from xml.sax.saxutils import escape, quoteattr

from fxprune.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 100
_FONT = "DejaVu Sans, Verdana, sans-serif"


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line."""

    start: tuple[float, float]
    end: tuple[float, float]
    colour: str
    width: float
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A round or square mark around a point."""

    at: tuple[float, float]
    radius: float
    fill: str
    edge: str
    square: bool = False
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text; `at` is the left or right end of its middle line."""

    at: tuple[float, float]
    text: str
    size: float
    colour: str
    anchor: Literal["start", "end"] = "start"
    bold: bool = False


Shape: TypeAlias = Line | Mark | Label


@dataclass(frozen=True, slots=True)
class Canvas:
    """Shapes in the order in which they are painted."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def to_svg(canvas: Canvas) -> bytes:
    """The picture as an SVG document."""
    size = f'width="{canvas.width:g}" height="{canvas.height:g}" viewBox="0 0 {canvas.width:g} {canvas.height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}">',
        '<rect width="100%" height="100%" fill="white"/>',
        *map(_element, canvas.shapes),
        "</svg>",
        "",
    ]
    return "\n".join(lines).encode()


def _element(shape: Shape) -> str:
    if isinstance(shape, Label):
        weight = ' font-weight="bold"' if shape.bold else ""
        place = f'x="{shape.at[0]:g}" y="{shape.at[1]:g}" font-size="{shape.size:g}" fill="{shape.colour}"'
        return (
            f'<text {place} text-anchor="{shape.anchor}" dominant-baseline="central"{weight} xml:space="preserve">'
            f"{escape(shape.text)}</text>"
        )
    tip = f"<title>{escape(shape.tip)}</title>" if shape.tip else ""
    if isinstance(shape, Line):
        (x1, y1), (x2, y2) = shape.start, shape.end
        place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
        return f'<line {place} stroke={quoteattr(shape.colour)} stroke-width="{shape.width:g}">{tip}</line>'
    paint = f'fill="{shape.fill}" stroke="{shape.edge}" stroke-width="1.6"'
    (x, y), r = shape.at, shape.radius
    if shape.square:
        return f'<rect x="{x - r:g}" y="{y - r:g}" width="{2 * r:g}" height="{2 * r:g}" {paint}>{tip}</rect>'
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" {paint}>{tip}</circle>'


def to_image(canvas: Canvas, suffix: str) -> bytes:
    """The picture as PNG or PDF.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = f"a {suffix} picture needs matplotlib (pip install matplotlib); .svg does not"
        raise InputError(msg) from error
    figure = Figure(figsize=(canvas.width / _DPI, canvas.height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, canvas.width)
    axes.set_ylim(canvas.height, 0)
    axes.set_axis_off()
    _paint(axes, canvas.shapes)
    file = BytesIO()
    figure.savefig(file, format=suffix.removeprefix("."), dpi=_DPI * 1.5)
    return file.getvalue()


def _paint(axes: Axes, shapes: Sequence[Shape]) -> None:
    """Matplotlib counts in points of 1/72 inch; pixels here are 1/100 inch."""
    points = 72 / _DPI
    for order, shape in enumerate(shapes):
        if isinstance(shape, Line):
            (x1, y1), (x2, y2) = shape.start, shape.end
            axes.plot([x1, x2], [y1, y2], color=shape.colour, linewidth=shape.width * points, zorder=order)
        elif isinstance(shape, Mark):
            axes.plot(
                *shape.at,
                marker="s" if shape.square else "o",
                markersize=2 * shape.radius * points,
                markeredgewidth=1.2,
                markerfacecolor=shape.fill,
                markeredgecolor=shape.edge,
                zorder=order,
            )
        else:
            axes.text(
                *shape.at,
                shape.text,
                fontsize=shape.size * points,
                color=shape.colour,
                ha="left" if shape.anchor == "start" else "right",
                va="center_baseline",
                weight="bold" if shape.bold else "normal",
                zorder=order,
                parse_math=False,
            )
