"""Cuts of cuts: what is kept of a model, of which a first cut was made and then a second one of what the first left.

The slim model has groups of its own. One of them corresponds to the original's group that occurs on the same axes of the
same parameters and that the first cut left at its size. With `f` the kept indices of the first and `s` those of the second
cut, the original keeps `f[s]`; in a nested group row by row, the rows of outer indices that the first cut left being those
that the second knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fxprune.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.analysis import Analysis
    from fxprune.groups import Group

Kept = Mapping[str, "NDArray[np.int64]"]


def corresponding(original: Analysis, kept: Kept, slim: Analysis) -> dict[str, str]:
    """Name of each group of a slim model -> name of the original's group that it is the rest of.

    Raises:
        InputError: a group has no counterpart, or several.
    """
    known = {name for name in original.program.tensors if name not in original.program.buffers}
    found = {}
    for group in slim.groups:
        alike = [
            each
            for each in original.groups
            if _width(each, kept) == group.size and _axes(each, known) == _axes(group, known)
        ]
        named = [each for each in alike if each.name == group.name] if len(alike) > 1 else alike
        if len(named) != 1:
            msg = (
                f"group {group.name!r} ({group.size} {group.kind}) of the slim model corresponds to {len(named)} groups of "
                f"the original, so that it cannot be cut further; keep it by ignore=[{group.name!r}], or prune in one step"
            )
            raise InputError(msg)
        found[group.name] = named[0].name
    return found


def composed(original: Analysis, first: Kept, second: Kept, names: Mapping[str, str]) -> dict[str, NDArray[np.int64]]:
    """Kept indices of the original.

    Args:
        original: its analysis.
        first: kept indices of its groups; groups left out are whole.
        second: likewise of the slim model's groups.
        names: which group of the original each of those is.
    """
    later = {names[name]: np.asarray(indices) for name, indices in second.items()}
    by_variable = {group.variable: group for group in original.groups}
    result = dict(first)
    for name, chosen in later.items():
        group = original.group(name)
        outer = None if group.outer is None else by_variable.get(group.outer)
        rows = None if outer is None else first.get(outer.name)
        result[name] = _pick(_indices(group, first), chosen, rows)
    return result


def _pick(first: NDArray[np.int64], chosen: NDArray[np.int64], rows: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """`first[chosen]`, row by row in a nested group; rows whose outer index is gone keep their first ones."""
    if first.ndim == 1:
        return first[chosen]
    whole = np.tile(np.arange(chosen.shape[1]), (len(first), 1))
    whole[slice(None) if rows is None else rows] = chosen
    return np.take_along_axis(first, whole, axis=1)


def _indices(group: Group, kept: Kept) -> NDArray[np.int64]:
    """Kept indices of a group, all of them where nothing is cut: [k], or [outer size, k]."""
    if group.name in kept:
        return np.asarray(kept[group.name])
    everything = np.arange(group.size)
    return everything if group.outer is None else np.tile(everything, (group.outer.size, 1))


def _width(group: Group, kept: Kept) -> int:
    return kept[group.name].shape[-1] if group.name in kept else group.size


def _axes(group: Group, names: set[str]) -> set[tuple[str, int]]:
    return {(member.name, member.dim) for member in group.members if member.name in names}
