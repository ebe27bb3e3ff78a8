"""Rows of a table that differ in numbers of their names alone, written as one: `encoder.layers.{0..11}.mlp.0`.

A name is split at its numbers. Names with the same text between them are alike; where the numbers that they have are
all combinations of some sets, one for each place, one pattern says them all: `layer{1..4}.{0,1}.conv1` are eight
names. Alike names that do not form such a grid are folded along the place that varies most, and so on until every
pattern is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Generic, TypeVar

Row = TypeVar("Row")
Numbers = tuple[int, ...]

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+|\d+(?=\.|$|\[)|(?<=_)\d+")


@dataclass(frozen=True, slots=True)
class Folded(Generic[Row]):
    """Rows that one pattern names, in their order."""

    pattern: str
    rows: tuple[Row, ...]


def fold(rows: Iterable[Row], name: Callable[[Row], str], alike: Callable[[Row], Hashable]) -> list[Folded[Row]]:
    """Fold rows with equal `alike` whose names differ in numbers alone, in the order of each fold's first row.

    Example:
        >>> [each.pattern for each in fold(["h.0.fc", "h.1.fc", "h.2.fc", "head"], name=str, alike=len)]
        ['h.{0..2}.fc', 'head']
    """
    ordered = list(rows)
    classes: dict[Hashable, list[int]] = {}
    for at, row in enumerate(ordered):
        classes.setdefault((_template(name(row)), alike(row)), []).append(at)
    found = [
        (min(part), Folded(_pattern([name(ordered[at]) for at in part]), tuple(ordered[at] for at in part)))
        for members in classes.values()
        for part in _grids(members, [_numbers(name(ordered[at])) for at in members])
    ]
    return [folded for _, folded in sorted(found, key=lambda each: each[0])]


def fold_names(names: Iterable[str]) -> list[str]:
    """Patterns that name all of `names`."""
    return [each.pattern for each in fold(names, name=str, alike=lambda _: None)]


def _template(name: str) -> str:
    return _NUMBER.sub("#", name)


def _numbers(name: str) -> Numbers:
    return tuple(int(found) for found in _NUMBER.findall(name))


def _grids(members: Sequence[int], numbers: Sequence[Numbers]) -> list[list[int]]:
    """Partition members into runs whose numbers form a grid."""
    places = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    if len(members) == 1 or prod(map(len, places)) == len(set(numbers)) == len(members):
        return [list(members)]
    widest = max(range(len(places)), key=lambda place: len(places[place]), default=0)
    runs: dict[Numbers, list[int]] = {}
    for at, own in enumerate(numbers):
        runs.setdefault(own[:widest] + own[widest + 1 :], []).append(at)
    if len(runs) == 1:
        return [[member] for member in members]
    return [grid for run in runs.values() for grid in _grids([members[at] for at in run], [numbers[at] for at in run])]


def _pattern(names: Sequence[str]) -> str:
    columns = zip(*map(_numbers, names), strict=True)
    texts = iter([_range(sorted(set(column))) for column in columns])
    return _NUMBER.sub(lambda _: next(texts), names[0])


def _range(numbers: Sequence[int]) -> str:
    """`7`, `{0,1}`, `{0..11}` or `{0..3,6}`."""
    if len(numbers) == 1:
        return str(numbers[0])
    starts = [numbers[0], *(there for here, there in pairwise(numbers) if there != here + 1)]
    ends = [*(here for here, there in pairwise(numbers) if there != here + 1), numbers[-1]]
    runs = [_run(start, end) for start, end in zip(starts, ends, strict=True)]
    return "{" + ",".join(runs) + "}"


def _run(start: int, end: int) -> str:
    if start == end:
        return str(start)
    return f"{start},{end}" if end == start + 1 else f"{start}..{end}"
