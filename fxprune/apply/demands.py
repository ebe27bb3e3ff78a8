"""Demands: what the graph asks of the numbers in a module's attributes.

A call that a tagged number reached and the graph's operation of the same line and the same numbers are one and the
same; the number that the rewrite put in the graph is what the attribute has to yield from now on. So a demand is an
equation: expression over slots = number. Numbers that stay are demanded too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fxprune.apply.observe import Call
from fxprune.apply.places import Place
from fxprune.apply.sizes import New, Sized, Sizes
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


def find_demands(calls: Iterable[Call], sizes: Sizes) -> list[Demand]:
    """Demands of all calls of a run of the original."""
    return [
        Demand(number.expression, value, call.place)
        for call in calls
        for number, value in zip(call.numbers, expected_numbers(call, sizes), strict=True)
        if isinstance(number, Tagged) and value is not None
    ]


def expected_numbers(call: Call, sizes: Sizes) -> list[New]:
    """What each number of a call of the original has to become; None where the graph does not say."""
    matched = operation_of(call, sizes)
    if matched is not None:
        return [new for _, new in matched.numbers][: len(call.numbers)]
    return [_only_reading(int(number), sizes.operations.get(call.place, [])) for number in call.numbers]


def operation_of(call: Call, sizes: Sizes) -> Sized | None:
    """The operation of the graph that a call of the original became."""
    for line, occurrence in call.lines:
        same = [each for each in sizes.operations.get(line, []) if _alike(call.numbers, each.old)]
        if same:
            return same[min(occurrence, len(same) - 1)]
    return None


def _alike(numbers: Sequence[int], old: Sequence[int]) -> bool:
    """Whether a call and an operation have the same numbers; a negative one stands for any (-1 is inferred).

    The operation may have more, at the end: defaults that the call left out.
    """
    if not 0 < len(numbers) <= len(old):
        return False
    return all(int(a) == b or int(a) < 0 or b < 0 for a, b in zip(numbers, old, strict=False))


def _only_reading(number: int, operations: Sequence[Sized]) -> int | None:
    """What the number becomes in the operations of its line, if they agree."""
    found = {new for each in operations for old, new in each.numbers if old == number}
    return found.pop() if len(found) == 1 else None


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


def find_deviations(original: Sequence[Call], trial: Sequence[Call], sizes: Sizes) -> Iterator[Deviation]:
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
        wanted = expected_numbers(known[position], sizes)
        for was, value, number in zip(known[position].numbers, wanted, call.numbers, strict=True):
            if value is not None and value > 0 and int(number) > 0 and value != int(number):
                yield Deviation(call.place, int(was), value, int(number))
