"""What a latency model starts from: the graph in fragments, and times that are known or can be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from fxprune.analysis import Analysis
from fxprune.latency.basis import Ints, columns_of
from fxprune.latency.building import build_fragment, build_whole
from fxprune.latency.cache import digest, open_times
from fxprune.latency.fragments import Fragment, find_fragments
from fxprune.latency.gathering import Gatherer
from fxprune.latency.levels import coordinates
from fxprune.latency.signature import signature_of
from fxprune.latency.stopwatch import SMALL, Make, Stopwatch, next_to_nothing

FRAGMENTS_TOGETHER, CANDIDATES_TOGETHER = 24, 3
"""How many are in memory at a time, beside the original and the anchor."""
_LEAST = digest("next to nothing")
REPEATS = 2
"""How often suspicious times are measured again."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        fitted: whole candidates that factors are fitted to, beside the original.
        held_out: whole candidates that only test the predictions.
        seed: decides which.
        keep: whether times are kept on disk, and taken from there.
        progress: whether the terminal shows how far it is.
    """

    fitted: int = 8
    held_out: int = 4
    seed: int = 0
    keep: bool = True
    progress: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph in fragments, and what times them.

    Attributes:
        analysis: of the model at fixed sizes of its inputs.
        fragments: with their signatures.
        gatherer: knows times, or measures them.
        least: seconds of a call that does nothing.
        device: in words.
        versions: of the packages involved.
        name: of whole candidates in the cache.
    """

    analysis: Analysis
    fragments: tuple[tuple[Fragment, str], ...]
    gatherer: Gatherer
    least: float
    device: str
    versions: Mapping[str, str]
    name: str

    def times(self, wanted: Sequence[tuple[Fragment, str, Ints]], *, again: bool = False) -> list[float | None]:
        """Seconds of fragments with signatures at widths of all groups `[groups]`; None where the backend refuses one.

        Args:
            wanted: fragments, their signatures and widths.
            again: measure what is known too; the lesser time counts.
        """
        keys = [
            key for fragment, signature, row in wanted for key in keys_at(self.analysis, fragment, signature, row[None])
        ]
        makers: dict[str, Make] = {
            key: partial(build_fragment, self.analysis, fragment, row.tolist())
            for key, (fragment, _, row) in zip(keys, wanted, strict=True)
        }
        failed = self.gatherer.gather(makers, SMALL, "timing operations", FRAGMENTS_TOGETHER, again=again)
        known = self.gatherer.times.known
        return [None if key in failed else max(known[key] - self.least, 0.0) for key in keys]


def keys_at(analysis: Analysis, fragment: Fragment, signature: str, widths: Ints) -> tuple[str, ...]:
    """Keys of a fragment's times at widths of all groups `[candidates, groups]`."""
    points = coordinates(fragment.basis, columns_of(analysis.groups), widths).T
    return tuple(digest([signature, point.tolist()]) for point in points)


def prepare(analysis: Analysis, stopwatch: Stopwatch, effort: Effort) -> Prepared:
    """Cut a graph into fragments, and open what is known of their times.

    Raises:
        BackendError: the backend cannot run anything.
    """
    place = _device_of(analysis)
    device, versions = stopwatch.probe(place)
    fragments = tuple((fragment, signature_of(analysis, fragment)) for fragment in find_fragments(analysis))
    name = digest([[signature for _, signature in fragments], [str(node.target) for node in analysis.program.nodes]])
    sizes = [group.size for group in analysis.groups]
    gatherer = Gatherer(
        stopwatch,
        open_times(_environment(stopwatch, device, versions), keep=effort.keep),
        partial(build_whole, analysis, sizes),
        digest([name, sizes]),
        effort.progress,
    )
    failed = gatherer.gather({_LEAST: partial(next_to_nothing, place)}, SMALL, "timing an empty call", 1)
    least = 0.0 if failed else gatherer.times.known[_LEAST]
    return Prepared(analysis, fragments, gatherer, least, device, versions, name)


def _device_of(analysis: Analysis) -> torch.device:
    return next((tensor.device for tensor in analysis.program.tensors.values()), torch.device("cpu"))


def _environment(stopwatch: Stopwatch, device: str, versions: Mapping[str, str]) -> dict[str, str]:
    """What measured times hold for."""
    options = ", ".join(f"{name}={value!r}" for name, value in sorted(stopwatch.options.items()))
    return {"backend": stopwatch.backend.name, "options": options, "device": device, **versions}
