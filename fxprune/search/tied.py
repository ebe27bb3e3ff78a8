"""Groups that keep one width: a search problem whose columns are kinds instead of groups.

A kind is named by its first group. Its cost at a width is that of all of its groups at that width, its loss the sum of
theirs; both stay monotone, so every method of the search works on kinds as it does on groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.search.choices import Choices, Floats, Ints
from fxprune.search.problem import Costs


@dataclass(frozen=True, slots=True)
class TiedCosts:
    """Costs of kinds.

    Attributes:
        costs: of groups.
        groups: names of the kinds.
        columns: for each group the position of its kind, `[groups]`.
        first: for each kind the position of its first group, `[kinds]`.
    """

    costs: Costs
    groups: tuple[str, ...]
    columns: Ints
    first: Ints

    @property
    def sizes(self) -> Ints:
        """Original sizes, `[kinds]`."""
        found: Ints = np.asarray(self.costs.sizes, dtype=np.int64)[self.first]
        return found

    def evaluate(self, widths: Ints, metrics: Sequence[str] = ()) -> Mapping[str, Floats]:
        """Cost of each row of `widths`, `[candidates, kinds]`."""
        return self.costs.evaluate(widths[:, self.columns], metrics)


def tied(
    costs: Costs, choices: Sequence[Choices], kinds: Sequence[Sequence[str]]
) -> tuple[TiedCosts, tuple[Choices, ...]]:
    """Costs and candidates of kinds.

    Args:
        costs: of groups.
        choices: of groups; those of one kind have the same widths.
        kinds: names of the groups of each kind; every group is in one.
    """
    position = {name: at for at, name in enumerate(costs.groups)}
    by_name = {choice.group: choice for choice in choices}
    kind_of = {name: at for at, kind in enumerate(kinds) for name in kind}
    assert kind_of.keys() == position.keys(), "every group is in one kind"
    columns = np.array([kind_of[name] for name in costs.groups], dtype=np.int64)
    first = np.array([position[kind[0]] for kind in kinds], dtype=np.int64)
    made = TiedCosts(costs, tuple(kind[0] for kind in kinds), columns, first)
    return made, tuple(_merged([by_name[name] for name in kind]) for kind in kinds)


def _merged(choices: Sequence[Choices]) -> Choices:
    widths = choices[0].widths
    assert all(np.array_equal(each.widths, widths) for each in choices), "groups of a kind have the same candidates"
    return Choices(choices[0].group, widths, np.sum([each.loss for each in choices], axis=0))
