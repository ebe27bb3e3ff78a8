"""Learning alignment: `fxprune.latency.steps` says where to look and what the answers mean, here they are measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from fxprune.latency.basis import Floats
from fxprune.latency.fragments import Fragment
from fxprune.latency.prepared import REPEATS, Prepared
from fxprune.latency.steps import Probe, align_of_groups, learnt_align, probes_of
from fxprune.latency.table import suspicious


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
    together: dict[str, float] = defaultdict(float)
    first: dict[str, Fragment] = {}
    for (fragment, signature), (_, own) in zip(prepared.fragments, spent, strict=True):
        together[signature] += own
        first.setdefault(signature, fragment)
    signatures = {fragment: signature for signature, fragment in first.items()}
    probes = probes_of(analysis, [(first[signature], own) for signature, own in together.items()], step)
    answers = _answers(prepared, probes, signatures)
    learnt = learnt_align(answers, {fragment: together[signature] for fragment, signature in signatures.items()}, step)
    return learnt, align_of_groups(analysis, spent, learnt)


def _answers(
    prepared: Prepared, probes: Sequence[Probe], signatures: Mapping[Fragment, str]
) -> list[tuple[Probe, Floats]]:
    """Probes with the seconds at their widths, suspicious ones measured again; none that the backend refuses."""
    rows = [[(probe.fragment, signatures[probe.fragment], row) for row in probe.widths] for probe in probes]
    found: list[Floats] = []
    for repeat in range(1 + REPEATS):
        known = iter(prepared.times([row for own in rows for row in own]))
        found = [np.array([next(known) for _ in own], dtype=np.float64) for own in rows]  # NaN where refused
        doubtful = [own[at] for own, seconds in zip(rows, found, strict=True) for at in suspicious(seconds)]
        if not doubtful or repeat == REPEATS:
            break
        prepared.times(doubtful, again=True)
    return [(probe, seconds) for probe, seconds in zip(probes, found, strict=True) if np.isfinite(seconds).all()]
