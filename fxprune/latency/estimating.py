"""Making a latency model: cut the graph into fragments, time what is not known of them and of whole candidates, fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from fxprune.analysis import Analysis
from fxprune.axes import Axis
from fxprune.errors import BackendError
from fxprune.latency.basis import Floats, Ints
from fxprune.latency.building import build_fragment, build_whole
from fxprune.latency.cache import digest, open_times
from fxprune.latency.calibrate import fit
from fxprune.latency.fragments import OTHER, Fragment, find_fragments
from fxprune.latency.gathering import Gatherer
from fxprune.latency.levels import Grid, coordinates, grid_of, random_widths
from fxprune.latency.model import LatencyModel, Term, kind_sums
from fxprune.latency.signature import signature_of
from fxprune.latency.steps import align_of_groups, learnt_align, probes_of
from fxprune.latency.stopwatch import SMALL, WHOLE, Make, Stopwatch
from fxprune.latency.table import Table
from fxprune.widths import Range

MOST_KINDS = 5
"""Kinds of fragments that get a factor of their own; the others share one."""

FRAGMENTS_TOGETHER, CANDIDATES_TOGETHER = 12, 3
"""How many are in memory at a time, beside the original and the anchor."""


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


def build_model(
    analysis: Analysis, ranges: Mapping[str, Range], stopwatch: Stopwatch, effort: Effort | None = None
) -> LatencyModel:
    """Measure what is not known yet, and fit.

    Args:
        analysis: of the model at fixed sizes of its inputs (`fxprune.planning.survey`).
        ranges: the widths that each group may be cut to.
        stopwatch: the backend and its options.
        effort: how much is measured.

    Raises:
        BackendError: the backend cannot run the model.
    """
    effort = effort or Effort()
    return fit_model(prepare(analysis, stopwatch, effort), ranges, effort)


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

    def times(self, wanted: Sequence[tuple[Fragment, str, Ints]]) -> list[float | None]:
        """Seconds of fragments with signatures at widths of all groups `[groups]`; None where the backend refuses one."""
        columns = {group.variable: at for at, group in enumerate(self.analysis.groups)}
        keys = [
            digest([signature, coordinates(fragment.basis, columns, row[None])[:, 0].tolist()])
            for fragment, signature, row in wanted
        ]
        makers: dict[str, Make] = {
            key: partial(build_fragment, self.analysis, fragment, row.tolist())
            for key, (fragment, _, row) in zip(keys, wanted, strict=True)
        }
        failed = self.gatherer.gather(makers, SMALL, "timing operations", FRAGMENTS_TOGETHER)
        known = self.gatherer.times.known
        return [None if key in failed else max(known[key] - self.least, 0.0) for key in keys]


def prepare(analysis: Analysis, stopwatch: Stopwatch, effort: Effort) -> Prepared:
    """Cut a graph into fragments, and open what is known of their times.

    Raises:
        BackendError: the backend cannot run anything.
    """
    least, device, versions = stopwatch.probe(_device_of(analysis))
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
    return Prepared(analysis, fragments, gatherer, least, device, versions, name)


def learn_align(prepared: Prepared, step: int) -> tuple[dict[str, int], dict[str, int]]:
    """The multiples that widths are worth keeping to, by kind of fragment and by group (`fxprune.latency.steps`).

    Args:
        prepared: the graph and its times.
        step: the multiple that widths are kept to anyway.
    """
    analysis = prepared.analysis
    sizes = np.array([group.size for group in analysis.groups])
    seconds = prepared.times([(fragment, signature, sizes) for fragment, signature in prepared.fragments])
    spent = [(fragment, own or 0.0) for (fragment, _), own in zip(prepared.fragments, seconds, strict=True)]
    together: Counter[str] = Counter()
    first: dict[str, Fragment] = {}
    for (fragment, signature), (_, own) in zip(prepared.fragments, spent, strict=True):
        together[signature] += own  # type: ignore[assignment]  # seconds, added up
        first.setdefault(signature, fragment)
    signatures = {fragment: signature for signature, fragment in first.items()}
    probes = probes_of(analysis, [(first[signature], own) for signature, own in together.items()], step)
    rows = [(probe.fragment, signatures[probe.fragment], row) for probe in probes for row in probe.widths]
    found = iter(prepared.times(rows))
    timed = [(probe, [next(found) for _ in probe.widths]) for probe in probes]
    answers = [
        (probe, np.array(own, dtype=np.float64)) for probe, own in timed if all(each is not None for each in own)
    ]
    learnt = learnt_align(answers, {fragment: together[signature] for fragment, signature in signatures.items()}, step)
    return learnt, align_of_groups(analysis, spent, learnt)


def fit_model(prepared: Prepared, ranges: Mapping[str, Range], effort: Effort) -> LatencyModel:
    """Time what is not known yet, at widths of these ranges, and fit.

    Raises:
        BackendError: the backend cannot run the model.
    """
    analysis, gatherer = prepared.analysis, prepared.gatherer
    fragments = [_Known.of(analysis, fragment, signature, ranges) for fragment, signature in prepared.fragments]
    kinds = _kinds([known.fragment for known in fragments])
    terms, refused = _terms(analysis, fragments, kinds, gatherer, prepared.least)
    rows = list(islice(random_widths(analysis, ranges, effort.seed), effort.fitted + effort.held_out))
    widths = np.array([[group.size for group in analysis.groups], *rows])
    measured = _whole(analysis, prepared.name, widths, gatherer)
    columns = {group.variable: at for at, group in enumerate(analysis.groups)}
    sums = kind_sums(terms, len(kinds), columns, widths)
    seen = effort.fitted + 1
    factors = fit(sums[:seen], measured[:seen])
    pairs = np.stack([factors[0] + sums @ factors[1:], measured], axis=1)
    return LatencyModel(
        backend=gatherer.stopwatch.backend.name,
        device=prepared.device,
        versions=prepared.versions,
        groups=tuple(group.name for group in analysis.groups),
        columns=columns,
        kinds=kinds,
        terms=terms,
        factors=factors,
        fitted=pairs[:seen],
        held_out=pairs[seen:],
        refused=refused,
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """A fragment with what identifies its times.

    Attributes:
        fragment: the fragment.
        signature: its text.
        grid: where it is timed.
        keys: of its times, in the order of the grid.
    """

    fragment: Fragment
    signature: str
    grid: Grid
    keys: tuple[str, ...]

    @classmethod
    def of(cls, analysis: Analysis, fragment: Fragment, signature: str, ranges: Mapping[str, Range]) -> _Known:
        """Find out."""
        columns = {group.variable: at for at, group in enumerate(analysis.groups)}
        grid = grid_of(analysis, fragment.basis, ranges)
        points = coordinates(fragment.basis, columns, grid.widths).T
        return cls(fragment, signature, grid, tuple(digest([signature, point.tolist()]) for point in points))


def _device_of(analysis: Analysis) -> torch.device:
    return next((tensor.device for tensor in analysis.program.tensors.values()), torch.device("cpu"))


def _environment(stopwatch: Stopwatch, device: str, versions: Mapping[str, str]) -> dict[str, str]:
    """What measured times hold for."""
    options = ", ".join(f"{name}={value!r}" for name, value in sorted(stopwatch.options.items()))
    return {"backend": stopwatch.backend.name, "options": options, "device": device, **versions}


def _kinds(fragments: Sequence[Fragment]) -> tuple[str, ...]:
    """The kinds that get a factor, the most frequent ones first."""
    counts = Counter(fragment.kind for fragment in fragments)
    names = [name for name, _ in counts.most_common()]
    return tuple(names) if len(names) <= MOST_KINDS else (*names[: MOST_KINDS - 1], OTHER)


def _position(kinds: Sequence[str], kind: str) -> int:
    return kinds.index(kind) if kind in kinds else len(kinds) - 1


def _terms(
    analysis: Analysis, fragments: Sequence[_Known], kinds: Sequence[str], gatherer: Gatherer, least: float
) -> tuple[tuple[Term, ...], tuple[str, ...]]:
    """A term for each table and basis, timed where it is not known; and what the backend refuses."""
    wanted: dict[str, Make] = {
        key: partial(build_fragment, analysis, known.fragment, row.tolist())
        for known in reversed(fragments)
        for key, row in zip(known.keys, known.grid.widths, strict=True)
    }
    failed = gatherer.gather(wanted, SMALL, "timing operations", FRAGMENTS_TOGETHER)
    counts: Counter[tuple[tuple[str, ...], tuple[Axis, ...]]] = Counter()
    first: dict[tuple[tuple[str, ...], tuple[Axis, ...]], _Known] = {}
    refused: dict[str, str] = {}
    for known in fragments:
        missing = next((failed[key] for key in known.keys if key in failed), None)
        if missing is not None:
            refused.setdefault(known.signature, f"{known.fragment}: {missing}")
            continue
        counts[known.keys, known.fragment.basis] += 1
        first.setdefault((known.keys, known.fragment.basis), known)
    terms = [
        _term(known, counts[place], _position(kinds, known.fragment.kind), gatherer, least)
        for place, known in first.items()
    ]
    return tuple(terms), tuple(refused.values())


def _term(known: _Known, count: int, kind: int, gatherer: Gatherer, least: float) -> Term:
    seconds = np.maximum(np.array([gatherer.times.known[key] for key in known.keys]) - least, 0.0)
    table = Table(known.grid.levels, seconds.reshape([len(each) for each in known.grid.levels]))
    return Term(kind, count, known.fragment.basis, table, table.envelope())


def _whole(analysis: Analysis, name: str, widths: Ints, gatherer: Gatherer) -> Floats:
    """Seconds of whole candidates `[candidates]`.

    Raises:
        BackendError: one cannot run.
    """
    keys = [digest([name, row.tolist()]) for row in widths]
    makers: dict[str, Make] = {
        key: partial(build_whole, analysis, row.tolist()) for key, row in zip(keys, widths, strict=True)
    }
    failed = gatherer.gather(makers, WHOLE, "timing candidates", CANDIDATES_TOGETHER)
    if failed:
        backend = gatherer.stopwatch.backend.name
        raise BackendError(f"backend {backend!r} cannot run the model: {next(iter(failed.values()))}")
    return np.array([gatherer.times.known[key] for key in keys])
