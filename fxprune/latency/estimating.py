"""Making a latency model: cut the graph into fragments, time what is not known of them and of whole candidates, fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from fxprune.analysis import Analysis
from fxprune.axes import Axis
from fxprune.errors import BackendError
from fxprune.latency.basis import Floats, Ints, columns_of
from fxprune.latency.building import build_fragment, build_whole
from fxprune.latency.cache import digest
from fxprune.latency.calibrate import fit
from fxprune.latency.fragments import OTHER, Fragment
from fxprune.latency.gathering import Gatherer
from fxprune.latency.levels import SHARES, Grid, grid_of, random_widths
from fxprune.latency.model import LatencyModel, Term, kind_sums
from fxprune.latency.prepared import (
    CANDIDATES_TOGETHER,
    FRAGMENTS_TOGETHER,
    REPEATS,
    Effort,
    Prepared,
    keys_at,
    prepare,
)
from fxprune.latency.stopwatch import SMALL, WHOLE, Make, Stopwatch
from fxprune.latency.table import Table, suspicious
from fxprune.widths import Range

MOST_KINDS = 5
"""Kinds of fragments that get a factor of their own; the others share one."""


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
    columns = columns_of(analysis.groups)
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
        grid = grid_of(analysis, fragment.basis, ranges)
        return cls(fragment, signature, grid, keys_at(analysis, fragment, signature, grid.widths))


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
    for _ in range(REPEATS):
        doubtful = {key: wanted[key] for known in fragments for key in _doubtful(known, gatherer, failed)}
        gatherer.gather(doubtful, SMALL, "timing operations again", FRAGMENTS_TOGETHER, again=True)
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
    tables = {known.keys: _tables(known, gatherer, least) for known in first.values()}
    terms = [
        Term(_position(kinds, known.fragment.kind), counts[place], known.fragment.basis, *tables[known.keys])
        for place, known in first.items()
    ]
    return tuple(terms), tuple(refused.values())


def _doubtful(known: _Known, gatherer: Gatherer, failed: Mapping[str, str]) -> list[str]:
    """Keys of times that are worth a second look."""
    if any(key in failed for key in known.keys):
        return []
    seconds = np.array([gatherer.times.known[key] for key in known.keys])
    return [known.keys[at] for at in suspicious(seconds.reshape([len(each) for each in known.grid.levels]))]


def _tables(known: _Known, gatherer: Gatherer, least: float) -> tuple[Table, Table, Floats | None]:
    """The table, its envelope, and the envelope at every size where sizes are what the table is over."""
    seconds = np.maximum(np.array([gatherer.times.known[key] for key in known.keys]) - least, 0.0)
    table = Table(known.grid.levels, seconds.reshape([len(each) for each in known.grid.levels]))
    envelope, basis = table.envelope(), known.fragment.basis
    return table, envelope, envelope.everywhere(tuple(axis.size for axis in basis)) if len(basis) in SHARES else None


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
