"""Long work of scorers: shared among processes, remembered in the store, shown as progress, with one result.

Both forms go in rounds: in each every rank does one item, the results are exchanged, and every rank takes them in the
order of the items. So what comes out does not depend on the number of processes, to the last bit, as far as an item's own
result does not; and what rank 0 writes to the checkpoint after each round is all that is finished. Where it cannot write, all
ranks say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol, TypeVar

import numpy as np

from fxprune.distributed import from_first, gathered, is_first, together, world
from fxprune.records import Values
from fxprune.store import Store

Item = TypeVar("Item")

SUM = "sum."
"""What names of sums begin with in the store."""
SHARE_OF_WRITING = 0.05
"""Largest share of the time that may go into writing running sums."""


class Track(Protocol):
    """`fxprune.progress.track`, or nothing of the kind."""

    def __call__(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
        """Yield the items."""
        ...


def evaluate(
    keys: Sequence[str], compute: Callable[[str], Mapping[str, Any]], what: str, store: Store, track: Track
) -> dict[str, Values]:
    """What `compute` returns for every key, or the store remembers of it.

    Args:
        keys: what is to be computed, each by itself; the same on every rank.
        compute: key -> values that a store takes.
        what: what is being done, for the display.
        store: what is finished; results are put there.
        track: shows progress.

    Raises:
        CheckpointError: rank 0 cannot write the checkpoint; on every rank.
        FxpruneError: another rank failed (an error of this rank's own is raised as it is).
    """
    missing = [key for key in dict.fromkeys(keys) if store.get(key) is None]
    rank, size = world()
    starts = range(0, len(missing), size)
    for start in track(starts, what):
        round_ = missing[start : start + size]
        own = (lambda key=round_[rank]: compute(key)) if rank < len(round_) else None
        keep(store, dict(zip(round_, together(own), strict=True)))
    return {key: store.recall(key, dict) for key in keys}


def accumulate(
    key: str,
    share: Callable[[int], Iterator[Item]],
    compute: Callable[[Item], Mapping[str, Any]],
    what: str,
    store: Store,
    track: Track,
    total: int | None = None,
    idle: Callable[[], object] | None = None,
) -> tuple[dict[str, Any], int]:
    """The sum over all items of the arrays that `compute` returns, and how many items there were.

    Sums are float64, added in the order of the items: running sums go to the store as often as writing them takes little
    of the time, and a later run skips the items that are in them.

    Args:
        key: of the running sums in the store.
        share: number of items to skip -> this rank's share of those that follow.
        compute: item -> named arrays.
        what: what is being done, for the display.
        store: where sums are kept.
        track: shows progress.
        total: number of items, where it is known.
        idle: what a rank does in the last round if it has no item while others do, for `compute` that exchanges something
            with them; None where it does not.

    Raises:
        CheckpointError: rank 0 cannot write the checkpoint; on every rank.
        FxpruneError: another rank failed (an error of this rank's own is raised as it is).
    """
    running = _Running(key, store)
    own = share(running.count)
    _, size = world()
    rounds = None if total is None else -(-max(total - running.count, 0) // size)
    try:
        for _ in track(repeat(None), what, rounds):
            found = [each for each in together(lambda: _next(own, compute, idle)) if each is not None]
            if not found:
                break
            running.add(found)
            from_first(running.save_now_and_then)
    except BaseException:
        running.save()  # of this rank alone: the others may be gone
        raise
    keep(store, running.unsaved())
    return running.sums, running.count


def keep(store: Store, finished: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what is finished into the stores of all ranks, which call this together.

    Args:
        store: this rank's own.
        finished: key -> values, what this rank's store lacks.

    Raises:
        CheckpointError: rank 0 cannot write the checkpoint; on every rank, so that none waits for it.
    """

    def put() -> None:
        for key, values in finished.items():
            store.put(key, values)

    from_first(put)
    if not is_first():
        put()


def _next(
    items: Iterator[Item], compute: Callable[[Item], Mapping[str, Any]], idle: Callable[[], object] | None
) -> dict[str, Any] | None:
    """What `compute` returns for the next item, in float64; None after the last."""
    item = next(items, None)
    if idle is not None and any(gathered(item is not None)) and item is None:
        idle()
    if item is None:
        return None
    return {name: np.asarray(each, dtype=np.float64) for name, each in compute(item).items()}


class _Running:
    """Sums so far, kept in the store: after each addition as long as all writing takes a small share of the time."""

    def __init__(self, key: str, store: Store) -> None:
        self.key, self.store = key, store
        found = store.get(key) or {"count": 0}
        self.count = self.saved = int(found["count"])
        self.sums: dict[str, Any] = {name[len(SUM) :]: each for name, each in found.items() if name.startswith(SUM)}
        self.started, self.spent, self.last = time.perf_counter(), 0.0, 0.0

    def add(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Add the arrays of items, in their order."""
        for name, array in (pair for each in found for pair in each.items()):
            self.sums[name] = self.sums[name] + array if name in self.sums else array
        self.count += len(found)

    def save_now_and_then(self) -> None:
        """Save if that has taken, and will take, a small share of the time."""
        if self.spent + self.last <= SHARE_OF_WRITING * (time.perf_counter() - self.started):
            self.save()

    def save(self) -> None:
        """Put what has changed into the store."""
        begun = time.perf_counter()
        for key, values in self.unsaved().items():
            self.store.put(key, values)
        self.last = time.perf_counter() - begun
        self.spent += self.last
        self.saved = self.count

    def unsaved(self) -> dict[str, dict[str, Any]]:
        """What the store has to hold, by key, unless it does."""
        if self.count == self.saved:
            return {}
        return {self.key: {"count": self.count, **{SUM + name: each for name, each in self.sums.items()}}}
