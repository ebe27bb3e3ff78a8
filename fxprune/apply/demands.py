"""Demands: what the graph asks of the numbers in a module's attributes.

A call that a tagged number reached and the graph's operation of the same line and the same numbers are one and the
same; the number that the rewrite put in the graph is what the attribute has to yield from now on. So a demand is an
equation: expression over slots = number. Numbers that stay are demanded too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fxprune.apply.matching import Matching
from fxprune.apply.observe import Call
from fxprune.apply.places import Place
from fxprune.apply.tagged import Expression, Tagged


@dataclass(frozen=True, slots=True)
class Demand:
    """An expression over slots has to yield a number.

    Attributes:
        expression: over slots.
        value: the number.
        place: the line that says so.
    """

    expression: Expression
    value: int
    place: Place


def find_demands(calls: Iterable[Call], matching: Matching) -> list[Demand]:
    """Demands of all calls of a run of the original."""
    return [
        Demand(number.expression, value, call.place)
        for call in calls
        for number, value in zip(call.numbers, matching.expected(call), strict=True)
        if isinstance(number, Tagged) and value is not None
    ]


@dataclass(frozen=True, slots=True)
class Deviation:
    """A call that did not get the number that the graph has.

    Attributes:
        place: the user's line.
        original: the number in the original.
        expected: what it has to become.
        found: what the slimmed class passes.
    """

    place: Place
    original: int
    expected: int
    found: int


def find_deviations(original: Sequence[Call], trial: Sequence[Call], matching: Matching) -> Iterator[Deviation]:
    """Calls of the slimmed class, in order, whose numbers are not those of the graph."""
    calls = defaultdict[Place, list[Call]](list)
    for call in original:
        calls[call.place].append(call)
    counts = defaultdict[Place, int](int)
    for call in trial:
        position = counts[call.place]
        counts[call.place] += 1
        known = calls[call.place]
        if position >= len(known) or len(known[position].numbers) != len(call.numbers):
            continue
        wanted = matching.expected(known[position])
        for was, value, number in zip(known[position].numbers, wanted, call.numbers, strict=True):
            if value is not None and value > 0 and int(number) > 0 and value != int(number):
                yield Deviation(call.place, int(was), value, int(number))
