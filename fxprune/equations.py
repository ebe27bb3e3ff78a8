"""Widths of kinds from the shapes that parameters are to have.

The size of a parameter's axis is an expression in widths: a product of `2 x 4 x 8` (key/value heads, query heads in each,
dimensions) has to become 32, its neighbour `2 x 8` 16. Equations with one unknown are solved first, then those that they
leave with one, and all of them are checked. Where several widths multiply, sizes alone do not tell which of them changed:
some kinds are assumed to keep theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fxprune.axes import Axis, Variable, size_at
from fxprune.groups import variables_of
from fxprune.kinds import Kind


@dataclass(frozen=True, slots=True)
class Equation:
    """An axis of a parameter, and the size that it is to have."""

    name: str
    dim: int
    axis: Axis
    size: int


def solve(
    equations: Sequence[Equation], kinds: Mapping[Variable, Kind], keeping: Collection[Kind]
) -> dict[Kind, int] | None:
    """The width of every kind, or None where the equations have no solution, or leave it open.

    Args:
        equations: what is asked for.
        kinds: kind of each group's variable.
        keeping: kinds that keep their width.
    """
    known = {kind: kind.size for kind in keeping}
    while True:
        found = _next(equations, kinds, known)
        if found is None:
            break
        kind, width = found
        if not 0 < width <= kind.size:
            return None
        known[kind] = width
    widths = {variable: known.get(kind, 0) for variable, kind in kinds.items()}
    solved = known.keys() == set(kinds.values())
    return known if solved and all(size_at(each.axis, widths) == each.size for each in equations) else None


def _next(
    equations: Sequence[Equation], kinds: Mapping[Variable, Kind], known: Mapping[Kind, int]
) -> tuple[Kind, int] | None:
    """A kind that stands alone in an equation among those that are not known, and its width; 0 if there is none."""
    for each in equations:
        own = {kinds[variable] for variable in variables_of(each.axis) if variable in kinds}
        unknown = own - known.keys()
        if len(unknown) == 1:
            (kind,) = unknown
            return kind, _width(each, kind, kinds, known)
    return None


def _width(equation: Equation, kind: Kind, kinds: Mapping[Variable, Kind], known: Mapping[Kind, int]) -> int:
    """The width that solves an equation which is linear in it, 0 where no whole number does."""

    def at(width: int) -> int:
        trial = {**known, kind: width}
        return size_at(equation.axis, {variable: trial.get(own, variable.size) for variable, own in kinds.items()})

    slope = at(2) - at(1)
    rest = equation.size - (at(1) - slope)
    return rest // slope if slope > 0 and rest % slope == 0 else 0
