"""Gathering times: what the cache knows is taken from there, the rest is measured, some at a time, and kept at once.

So an interrupted run loses one set of rounds. Every set holds the anchor (`fxprune.latency.stopwatch`): the original model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from fxprune.backends.measure import Timing
from fxprune.latency.cache import Times
from fxprune.latency.stopwatch import Make, Stopwatch
from fxprune.progress import showing


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Times by key.

    Attributes:
        stopwatch: the backend.
        times: what is known.
        anchor: makes the anchor.
        anchor_key: under which its first time is known.
        progress: whether the terminal shows how far it is.
        fresh: keys that were timed, not known.
    """

    stopwatch: Stopwatch
    times: Times
    anchor: Make
    anchor_key: str
    progress: bool
    fresh: set[str] = field(default_factory=set)

    def gather(
        self, wanted: Mapping[str, Make], timing: Timing, what: str, together: int, *, again: bool = False
    ) -> dict[str, str]:
        """Time what is not known; returns what cannot be timed, and why.

        Args:
            wanted: what makes a module, by the key of its time.
            timing: how long each is measured.
            what: for the terminal.
            together: how many are in memory, and timed in one set of rounds.
            again: time what was timed by this gatherer once more, and keep the lesser time: a module has bad luck with its
                memory at times. What the cache knows had its chance.

        Raises:
            BackendError: the backend cannot run the anchor.
        """
        left = [key for key in wanted if key not in self.times.known or (again and key in self.fresh)]
        failed: dict[str, str] = {}
        if not left:
            return failed
        with self.stopwatch.anchored(*self.anchor()) as anchored, self._shown(what, len(left)) as advance:
            for start in range(0, len(left), together):
                keys = left[start : start + together]
                now, several = anchored.times([wanted[key] for key in keys], timing)
                slower = now / self.times.known.get(self.anchor_key, now)
                found = dict(zip(keys, several, strict=True))
                good = {key: each / slower for key, each in found.items() if isinstance(each, float)}
                best = {key: min(each, self.times.known.get(key, each)) for key, each in good.items()}
                self.fresh.update(good)
                self.times.put({self.anchor_key: now / slower, **best})
                failed |= {key: each for key, each in found.items() if isinstance(each, str)}
                for _ in keys:
                    advance()
        return failed

    def _shown(self, what: str, steps: int) -> AbstractContextManager[Callable[[], None]]:
        return showing(what, steps) if self.progress else nullcontext(_nothing)


def _nothing() -> None:
    """Nobody is shown anything."""
