"""Widths of groups from sizes of tensors: the analysis read backwards.

The analysis says of every dimension of every tensor what it is made of: `32 = heads x dimensions`. Where the sizes are given,
these are equations for the widths, none of which can be more than it was:

1. a dimension of its old size: nothing that it is made of has changed;
2. a dimension of another size in which one width is unknown: it is the number that solves the equation;
3. where only equations with several unknown widths are left, one of them takes it all: the outermost, the next inside it,
   and so on, as asked for; then again from 2.
"""

from __future__ import annotations

from fxprune.analysis import Analysis
from fxprune.apply.blueprint import Sizes
from fxprune.axes import Axis, Variable, size_at
from fxprune.groups import variables_of

Widths = dict[Variable, int]
_Equation = tuple[Axis, int]


def solve_widths(analysis: Analysis, sizes: Sizes, *, taker: int) -> dict[str, int] | None:
    """Widths of the groups that change, by name; None where no widths give the sizes.

    Args:
        analysis: of the model as it is.
        sizes: of what its state dict holds, as `blueprint.sizes_of` gives them.
        taker: which of several unknown widths of a dimension takes all of its change, counted from the outermost.
    """
    equations = _equations(analysis, sizes)
    if equations is None:
        return None
    known: Widths = {}
    free = {group.variable for group in analysis.groups}
    for axis, size in equations:
        if size == axis.size:
            known.update((variable, variable.size) for variable in variables_of(axis))
    changed = [equation for equation in equations if equation[1] != equation[0].size]
    while changed:
        rest = [each for each in changed if not _settle(each, known, free, taker=None)]
        if len(rest) == len(changed) and not _settle(rest[0], known, free, taker=taker):
            return None
        changed = rest if len(rest) < len(changed) else rest[1:]
    if any(size_at(axis, known) != size for axis, size in equations):
        return None
    return {
        group.name: known[group.variable]
        for group in analysis.groups
        if known.get(group.variable, group.size) < group.size
    }


def _equations(analysis: Analysis, sizes: Sizes) -> list[_Equation] | None:
    """One for each dimension; None where a tensor has changed that the graph does not read."""
    program, found = analysis.program, list[_Equation]()
    for name in program.tensors:
        axes = analysis.propagation.tensors.get(program.canonical(name))
        for dim, before in enumerate(program.tensors[name].shape):
            size = sizes.get((name, dim), before)
            if axes is not None:
                found.append((axes[dim], size))
            elif size != before:
                return None
    return found


def _settle(equation: _Equation, known: Widths, free: set[Variable], *, taker: int | None) -> bool:
    """Solve for the one unknown width, or for one of several (`taker` says which); whether that was possible."""
    axis, size = equation
    unknown = [each for each in dict.fromkeys(variables_of(axis)) if each in free and each not in known]
    if not unknown:
        return True
    if len(unknown) > 1 and taker is None:
        return False
    variable = unknown[min(taker or 0, len(unknown) - 1)]
    fitting = (width for width in range(1, variable.size + 1) if size_at(axis, {**known, variable: width}) == size)
    width = next(fitting, None)
    if width is None:
        return taker is None  # nothing fits: the comparison in the end will say so
    known[variable] = width
    return True
