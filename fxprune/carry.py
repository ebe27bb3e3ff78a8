"""Scores of a model, for the same model without some of its blocks.

Its groups have other names there, since a group is named after the first parameter that holds it, and a group that only
dropped blocks held is gone. What stays the same is where indices stand: of the two analyses those groups belong together
whose indices stand at the same place of the same axis of one parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from fxprune.errors import InputError
from fxprune.groups import variables_of
from fxprune.scores import Scores

if TYPE_CHECKING:
    from fxprune.analysis import Analysis
    from fxprune.groups import Group

Value = TypeVar("Value")
Place: TypeAlias = tuple[str, int, int]


def carried(scores: Scores, whole: Analysis, part: Analysis) -> Scores:
    """Scores with the names that groups have in `part`.

    Args:
        scores: of the groups of `whole`.
        whole: the analysis that was scored.
        part: that of the model without some blocks.

    Raises:
        InputError: a group of the part chooses in another way than in the whole, so that its scores do not fit.
    """
    groups = former_groups(whole, part)
    former = {group.name: _same(group, groups).name for group in part.groups}

    def renamed(values: Mapping[str, Value]) -> dict[str, Value]:
        return {name: values[old] for name, old in former.items() if old in values}

    return replace(
        scores,
        importance=renamed(scores.importance),
        sensitivity=renamed(scores.sensitivity),
        whole=frozenset(name for name, old in former.items() if old in scores.whole),
    )


def former_groups(whole: Analysis, part: Analysis) -> dict[str, Group]:
    """Name of each group of `part` -> the group of `whole` whose indices stand at the same place."""
    known = {place: group for group in whole.groups for place in _places(whole, group)}
    found = {group.name: [known[place] for place in _places(part, group) if place in known] for group in part.groups}
    return {name: groups[0] for name, groups in found.items() if groups}


def _same(group: Group, former: Mapping[str, Group]) -> Group:
    found = former.get(group.name)
    if found is None or found.shape != group.shape:
        msg = (
            f"without the dropped blocks group {group.name!r} chooses in another way than before, so its scores do not "
            "fit; name the blocks, drop=[...], so that the model is scored without them"
        )
        raise InputError(msg)
    return found


def _places(analysis: Analysis, group: Group) -> Iterator[Place]:
    """Parameter, dimension, and position among the variables of that dimension's axis."""
    for member in group.members:
        if member.name in analysis.program.tensors:
            for at, variable in enumerate(variables_of(analysis.propagation.tensors[member.name][member.dim])):
                if variable is group.variable:
                    yield member.name, member.dim, at
