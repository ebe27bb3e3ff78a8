"""Which pairs of groups share a cost term, and how much: found from evaluations alone.

Move groups from a base to a narrower probe. With c(X) the cost when the groups of the set X have moved, two sets have

    I(S, T) = c(S + T) - c(S) - c(T) + c(nothing)

which is 0 exactly if no term depends on both, as terms are products of widths with positive coefficients: all shrink
together and cannot cancel. So blocks of the matrix of pairs are tested whole, and only blocks that interact are
quartered, down to single pairs. A chain of G groups takes about 10 G evaluations, not the G^2 / 2 of each pair.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from fxprune.search.choices import Floats, Ints
from fxprune.search.problem import Problem

Span: TypeAlias = tuple[int, int]
RELATIVE_ZERO = 1e-12


def pair_interactions(problem: Problem, base: Ints, probe: Ints) -> Floats:
    """Interaction `[metrics, groups, groups]` of every pair when both move from `base` to `probe`; symmetric."""
    movable = np.flatnonzero(base != probe)
    result = np.zeros((len(problem.metrics), len(base), len(base)))
    spans = _spans(0, len(movable))
    alone = dict(zip(spans, problem.usage(_moved(base, probe, movable, [[span] for span in spans])), strict=True))
    unmoved = problem.usage(base[None])[0]
    halves = [_halves(span) for span in spans]
    blocks = [(pair[0], pair[1]) for pair in halves if len(pair) == 2]
    while blocks:
        together = problem.usage(_moved(base, probe, movable, [list(block) for block in blocks]))
        apart = np.stack([alone[first] + alone[second] - unmoved for first, second in blocks])
        interaction = together - apart
        busy = (np.abs(interaction) > RELATIVE_ZERO * np.abs(unmoved)).any(axis=1)
        found = [(block, interaction[i]) for i, block in enumerate(blocks) if busy[i]]
        blocks = []
        for (first, second), amount in found:
            if first[1] - first[0] == second[1] - second[0] == 1:
                i, j = movable[first[0]], movable[second[0]]
                result[:, i, j] = result[:, j, i] = amount
            else:
                blocks += [(one, two) for one in _halves(first) for two in _halves(second)]
    return result


def _spans(start: int, stop: int) -> list[Span]:
    """All nodes of the binary tree over `[start, stop)`."""
    if stop <= start:
        return []
    if stop - start == 1:
        return [(start, stop)]
    return [(start, stop)] + [inner for half in _halves((start, stop)) for inner in _spans(*half)]


def _halves(span: Span) -> list[Span]:
    """Children of a node; a single group is its own child."""
    start, stop = span
    middle = (start + stop) // 2
    return [(start, middle), (middle, stop)] if stop - start > 1 else [span]


def _moved(base: Ints, probe: Ints, movable: Ints, rows: list[list[Span]]) -> Ints:
    """One row of levels per list of spans, with the groups in its spans at the probe."""
    levels = np.repeat(base[None], len(rows), axis=0)
    for row, spans in enumerate(rows):
        for start, stop in spans:
            inside = movable[start:stop]
            levels[row, inside] = probe[inside]
    return levels
