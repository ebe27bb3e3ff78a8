"""Patches alone did not suffice: which patches, and what to rewrite beside them.

The patches that the graph demands come first, then those that the search came furthest with. Where a run with corrected
sizes stops at a comparison that used to hold (`if x.shape[-1] != self.width: raise`), the attribute compared is patched
too, and the run made again.
"""

from __future__ import annotations

from collections.abc import Mapping

from fxprune.apply.draft import Draft
from fxprune.apply.explain import cannot_apply
from fxprune.apply.follow import follow
from fxprune.apply.observe import Observation
from fxprune.apply.search import Patches, Search
from fxprune.apply.source import CannotFollow
from fxprune.apply.trial import Trial, error_of

_ROUNDS = 24
"""Runs from the same patches, each further than the last."""


def last_resort(search: Search, first: Patches, found: Patches, trial: Trial) -> tuple[Patches, Mapping[str, Draft]]:
    """Patches and drafts with which the copy agrees with the graph.

    Args:
        search: which ended without agreement.
        first: the patches that it began with.
        found: the patches that it ended with.
        trial: their trial.

    Raises:
        CannotApply: there are none.
    """
    reasons: list[str] = []
    for start in (first, found):
        patches: Patches = start
        for _ in range(_ROUNDS):
            try:
                seen, drafts = follow(search.patched(patches), search.inputs, search.seen, search.matching)
            except CannotFollow as reason:
                reasons.append(str(reason))
                break
            if seen.outputs is not None and error_of(search.expected, seen.outputs) <= 1.0:
                return patches, drafts
            further = _further(search, patches, seen)
            if further == patches:
                reasons.append(_failure(seen))
                break
            patches = further
    raise cannot_apply(search, found, trial, reasons[0] if reasons else None)


def _further(search: Search, patches: Patches, seen: Observation) -> Patches:
    """The patches with those that the comparisons of a run ask for."""
    made = dict(patches)
    for proposal in search.comparisons(seen):
        made.update(proposal)
    return made


def _failure(seen: Observation) -> str:
    if seen.error is None:
        return "with every size and scale of the graph it computes something else"
    message = next(iter(str(seen.error).strip().splitlines()), "")
    return f"with every size of the graph it still fails at {seen.place}: {type(seen.error).__name__}: {message}"
