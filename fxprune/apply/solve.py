"""Find values of slots that meet the demands.

Demands on a slot itself are read off. What is left are demands on what arithmetic made of slots: where one does not
hold, the one slot that nothing else speaks for is given the value, among the sizes that its module is known to have,
that makes it hold. Demands that contradict each other are settled by majority; the others are left to the trial.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fxprune.apply.demands import Demand
from fxprune.apply.sizes import Sizes
from fxprune.apply.slots import Slot
from fxprune.apply.tagged import evaluate, slots_of


def solve(demands: Sequence[Demand], originals: Mapping[Slot, int], candidates: Sizes) -> dict[Slot, int]:
    """Values of the slots that are spoken for, those that stay as they are included."""
    chosen = _direct(demands)
    for demand in demands:
        if isinstance(demand.expression, Slot):
            continue
        free = [slot for slot in dict.fromkeys(slots_of(demand.expression)) if slot not in chosen]
        values = {**originals, **chosen}
        if not free or _holds(demand, values):
            continue
        found = list(_repairs(demand, free, values, candidates.candidates.get(demand.place.path, {})))
        if len(found) == 1:
            chosen.update([found[0]])
    return chosen


def _direct(demands: Iterable[Demand]) -> dict[Slot, int]:
    votes: dict[Slot, Counter[int]] = defaultdict(Counter)
    for demand in demands:
        if isinstance(demand.expression, Slot) and demand.value > 0:
            votes[demand.expression][demand.value] += 1
    return {slot: found.most_common(1)[0][0] for slot, found in votes.items()}


def _repairs(
    demand: Demand, free: Sequence[Slot], values: Mapping[Slot, int], candidates: Mapping[int, Sequence[int]]
) -> Iterable[tuple[Slot, int]]:
    for slot in free:
        for value in candidates.get(values[slot], ()):
            if _holds(demand, {**values, slot: value}):
                yield slot, value


def _holds(demand: Demand, values: Mapping[Slot, int]) -> bool:
    try:
        return evaluate(demand.expression, values) == demand.value
    except ZeroDivisionError:
        return False


def alternatives(demands: Iterable[Demand]) -> dict[Slot, list[int]]:
    """For slots that demands contradict each other on all the values demanded."""
    found: dict[Slot, list[int]] = defaultdict(list)
    for demand in demands:
        if isinstance(demand.expression, Slot) and demand.value > 0 and demand.value not in found[demand.expression]:
            found[demand.expression].append(demand.value)
    return {slot: values for slot, values in found.items() if len(values) > 1}
