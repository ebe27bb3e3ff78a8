"""Ties: groups whose widths keep their proportions, so that the search sees them as one.

A configuration may have one number for many groups (`intermediate_size` for all layers), or a number may be the product of
others (`hidden_size = num_attention_heads * head_dim`, with `head_dim` as it was). Groups g of sizes s_g that are tied in n
steps have the widths

    w_g(k) = s_g * k / n,   k = 1 ... n,

of which those are candidates that every one of them may be cut to. The search is given one column for all of them: the
first group's widths, the sum of their losses, and costs in which the others follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.search.choices import Choices, Floats, Ints
from fxprune.search.problem import Costs


@dataclass(frozen=True, slots=True)
class Tie:
    """Groups whose widths keep their proportions.

    Attributes:
        groups: their names.
        steps: all widths are their sizes times k / steps, k = 1 ... steps.
    """

    groups: tuple[str, ...]
    steps: int

    def __post_init__(self) -> None:
        """Check that there is something to tie."""
        assert self.groups, self
        assert self.steps > 0, self

    def widths(self, size: int) -> Ints:
        """The widths of a group of a size, ascending."""
        assert size % self.steps == 0, (self, size)
        return np.arange(1, self.steps + 1, dtype=np.int64) * (size // self.steps)


@dataclass(frozen=True, slots=True)
class TiedCosts:
    """Costs as a function of one width per column, where the first group of a column speaks for all of its groups.

    Attributes:
        whole: costs of all groups.
        columns: for each column its groups' positions.
        tables: for each column the candidate widths of its groups, `[levels, groups of the column]`.
    """

    whole: Costs
    columns: tuple[tuple[int, ...], ...]
    tables: tuple[Ints, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The first group of each column."""
        return tuple(self.whole.groups[column[0]] for column in self.columns)

    @property
    def sizes(self) -> Ints:
        """Their sizes."""
        return self.whole.sizes[[column[0] for column in self.columns]]

    def evaluate(self, widths: Ints, metrics: Sequence[str] = (), /) -> Mapping[str, Floats]:
        """Cost of each row of `widths`, `[candidates, columns]`."""
        return self.whole.evaluate(self.expand(widths), metrics)

    def expand(self, widths: Ints) -> Ints:
        """Widths of all groups, `[candidates, groups]`."""
        made = np.empty((len(widths), len(self.whole.groups)), dtype=np.int64)
        for at, (column, table) in enumerate(zip(self.columns, self.tables, strict=True)):
            made[:, column] = table[np.searchsorted(table[:, 0], widths[:, at])]
        return made


def tie(costs: Costs, choices: Sequence[Choices], ties: Sequence[Tie]) -> tuple[TiedCosts, list[Choices]]:
    """The problem with one column for what is tied.

    Args:
        costs: of all groups.
        choices: one per group, in the order of the costs; those of a tie have as many candidates.
        ties: groups in none are columns of their own.
    """
    position = {choice.group: at for at, choice in enumerate(choices)}
    tied = {name: each for each in ties for name in each.groups}
    columns = [
        tuple(position[name] for name in each.groups) if (each := tied.get(choice.group)) else (at,)
        for at, choice in enumerate(choices)
        if choice.group not in tied or tied[choice.group].groups[0] == choice.group
    ]
    tables = [np.stack([choices[at].widths for at in column], axis=1) for column in columns]
    joint = [
        Choices(choices[column[0]].group, choices[column[0]].widths, _sum([choices[at].loss for at in column]))
        for column in columns
    ]
    return TiedCosts(costs, tuple(columns), tuple(tables)), joint


def _sum(losses: Sequence[Floats]) -> Floats:
    total: Floats = np.sum(losses, axis=0, dtype=np.float64)
    return total
