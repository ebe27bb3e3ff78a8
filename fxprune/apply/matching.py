"""Which operation of the graph a call of the user's became.

Both are known by the line that they were called from, and both lists are in order of execution. A line may make many
calls, the more so where a graph knows the line of the forward alone for what a helper function does; some calls leave no
operation, some operations come from no call. So the two lists of a line are aligned: the pairs of equal numbers, and of
names that mean the same, in order, that weigh most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxprune.apply.observe import Call
from fxprune.apply.places import Place
from fxprune.apply.sizes import New, Sized, Sizes

_LARGEST = 250_000
"""Pairs of calls and operations of one line up to which they are aligned; beyond, they are taken in order."""
_SHAPING = ("reshape", "view", "flatten", "unflatten", "view_as", "reshape_as", "_unsafe_view")
_SPLITTING = ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")
_FAMILIES = {name: family[0] for family in (_SHAPING, _SPLITTING) for name in family}
_SAME_NAME = 8


@dataclass(frozen=True, slots=True)
class Matching:
    """Calls of a run of the original with operations of the graph.

    Attributes:
        operations: by number of the call.
        sizes: what the graph knows.
    """

    operations: Mapping[int, Sized]
    sizes: Sizes

    def expected(self, call: Call) -> list[New]:
        """What each number of a call of the original has to become; None where the graph does not say."""
        matched = self.operations.get(call.number)
        if matched is not None:
            return [new for _, new in matched.numbers][: len(call.numbers)]
        return [_only_reading(int(number), self.sizes.operations.get(call.place, [])) for number in call.numbers]


def match_calls(calls: Sequence[Call], sizes: Sizes) -> Matching:
    """Match all calls of a run of the original."""
    by_line: dict[Place, list[Call]] = defaultdict(list)
    for call in calls:
        for line in dict.fromkeys(call.lines):
            if call.numbers and line in sizes.operations:
                by_line[line].append(call)
    found: dict[int, Sized] = {}
    distances: dict[int, int] = {}
    for line, made in by_line.items():
        for call, operation in _align(made, sizes.operations[line]):
            distance = call.lines.index(line)
            if distance < distances.get(call.number, len(call.lines)):
                found[call.number], distances[call.number] = operation, distance
    return Matching(found, sizes)


def _align(calls: Sequence[Call], operations: Sequence[Sized]) -> list[tuple[Call, Sized]]:
    """Pairs in order of the largest weight in total."""
    if len(calls) * len(operations) > _LARGEST:
        return _in_order(calls, operations)
    rows = [[0] * (len(operations) + 1) for _ in range(len(calls) + 1)]
    weights = [[_weight(call, operation) for operation in operations] for call in calls]
    for i in range(len(calls) - 1, -1, -1):
        row, below, own = rows[i], rows[i + 1], weights[i]
        for j in range(len(operations) - 1, -1, -1):
            best = max(below[j], row[j + 1])
            row[j] = max(best, own[j] + below[j + 1]) if own[j] else best
    found: list[tuple[Call, Sized]] = []
    i = j = 0
    while i < len(calls) and j < len(operations):
        if weights[i][j] and rows[i][j] == weights[i][j] + rows[i + 1][j + 1]:
            found.append((calls[i], operations[j]))
            i, j = i + 1, j + 1
        elif rows[i][j] == rows[i + 1][j]:
            i += 1
        else:
            j += 1
    return found


def _in_order(calls: Sequence[Call], operations: Sequence[Sized]) -> list[tuple[Call, Sized]]:
    """Each call with the first operation that fits after the last one."""
    found: list[tuple[Call, Sized]] = []
    start = 0
    for call in calls:
        fitting = (at for at in range(start, len(operations)) if _weight(call, operations[at]) > _SAME_NAME)
        at = next(fitting, None)
        if at is not None:
            found.append((call, operations[at]))
            start = at + 1
    return found


def _weight(call: Call, operation: Sized) -> int:
    """How much speaks for a pair; 0 where it cannot be.

    A negative number stands for any (-1 is inferred). The operation may have more numbers, at the end: defaults that
    the call left out.
    """
    old = operation.old
    if not 0 < len(call.numbers) <= len(old):
        return 0
    pairs = list(zip(map(int, call.numbers), old, strict=False))
    if not all(a == b or a < 0 or b < 0 for a, b in pairs):
        return 0
    name = str(getattr(operation.node.target, "__name__", operation.node.target)).partition(".")[0]
    same = _family(call.name) == _family(name)
    if not same and _family(call.name) in _FAMILIES:
        return 0
    return 1 + same * _SAME_NAME + sum(a == b for a, b in pairs)


def _family(name: str) -> str:
    return _FAMILIES.get(name.strip("_"), name.strip("_"))


def _only_reading(number: int, operations: Sequence[Sized]) -> int | None:
    """What the number becomes in the operations of its line, if they agree."""
    found = {new for each in operations for old, new in each.numbers if old == number}
    return found.pop() if len(found) == 1 else None
