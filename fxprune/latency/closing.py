"""Closing the loop: widths that are predicted to meet a budget of time are measured, and the target moved until it holds.

The search is given a target t for the predicted time. With u(t) the share of the budget that the upper end of the measured 95 %
interval takes, t is wanted where u(t) is just below 1. u grows with t, nearly in proportion, so the next target is

    t' = t * AIM / u(t),

or, where that falls out of the bracket between the largest target that held and the smallest that did not, the bracket's
geometric middle. It ends when u is within CLOSE of 1, when targets come too near to each other to tell apart, or after
ROUNDS; the widest candidate that held is taken. A budget that even the narrowest widths break cannot be met.

Then widths that keep more parameters, and lose about as little, are measured in its place (`fxprune.search.roomy`). What is
predicted for both is the same, but a prediction may not know what parameters cost: they are taken only if they hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from fxprune.backends.measure import Latency
from fxprune.budget import format_amount
from fxprune.errors import InfeasibleBudget, Shortfall
from fxprune.latency.budget import TimeBudget
from fxprune.latency.costs import LATENCY
from fxprune.latency.referee import Referee

ROUNDS = 8
AIM = 0.985
CLOSE = 0.03
ROOMIER = 2
"""Candidates with more parameters that are tried."""
NARROWEST = 1.004
"""Targets nearer to each other than this are not told apart."""

Widths = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Widths that were measured.

    Attributes:
        target: predicted seconds that the search was allowed.
        widths: of all groups.
        predicted: seconds.
        original: the original's latency, measured beside it.
        measured: its own.
        used: share of the budget that the upper end of its interval takes.
    """

    target: float
    widths: Widths
    predicted: float
    original: Latency
    measured: Latency
    used: float


@dataclass(frozen=True, slots=True)
class Closing:
    """What is needed to try a target.

    Attributes:
        budget: what the user asked for.
        search: target in seconds -> widths; raises InfeasibleBudget.
        roomier: target in seconds, widths -> others that keep more parameters, or None; raises InfeasibleBudget.
        narrowest: the narrowest widths of all groups.
        predict: widths -> predicted seconds.
        build: widths -> a module to measure.
        referee: measures.
    """

    budget: TimeBudget
    search: Callable[[float], Widths]
    roomier: Callable[[float, Widths], Widths | None]
    narrowest: Widths
    predict: Callable[[Widths], float]
    build: Callable[[Widths], nn.Module]
    referee: Referee


@dataclass(frozen=True, slots=True)
class Bracket:
    """What is known of targets.

    Attributes:
        held: the candidate with the largest target that held; None while there is none.
        broke: the one with the smallest target that did not.
        rounds: number of candidates measured.
    """

    held: Candidate | None = None
    broke: Candidate | None = None
    rounds: int = 0

    def beside(self, found: Candidate) -> Bracket:
        """With one candidate more."""
        if found.used <= 1:
            better = self.held is None or found.target > self.held.target
            return replace(self, held=found if better else self.held, rounds=self.rounds + 1)
        worse = self.broke is None or found.target < self.broke.target
        return replace(self, broke=found if worse else self.broke, rounds=self.rounds + 1)

    def next_target(self, last: Candidate) -> float | None:
        """The target to try next; None where it would tell nothing new."""
        low = None if self.held is None else self.held.target
        high = None if self.broke is None else self.broke.target
        if low is not None and high is not None and high <= low * NARROWEST:
            return None
        wanted = last.target * AIM / last.used
        inside = (low is None or wanted > low * math.sqrt(NARROWEST)) and (high is None or wanted < high)
        if not inside and low is not None and high is not None:
            return math.sqrt(low * high)
        return wanted if inside else None


def close(closing: Closing, start: float, known: Bracket | None = None) -> tuple[Candidate, int]:
    """The widest candidate found that holds the budget, and how many were measured.

    Args:
        closing: how to try a target.
        start: the first target, in predicted seconds.
        known: what earlier rounds found.

    Raises:
        InfeasibleBudget: the other limits cannot be met, or even the narrowest widths take too long.
    """
    bracket, target = known or Bracket(), start
    while bracket.rounds < ROUNDS:
        found = _try(closing, target, bracket)
        if found is None:
            break
        bracket = bracket.beside(found)
        if 1 - CLOSE <= found.used <= 1:
            break
        following = bracket.next_target(found)
        if following is None:
            break
        target = following
    return bracket.held or _narrowest(closing, bracket), bracket.rounds


def make_room(closing: Closing, found: Candidate) -> tuple[Candidate, int]:
    """A candidate that keeps more parameters and holds as well, or else the one found; and how many were measured."""
    target = found.target
    for count in range(ROOMIER):
        try:
            widths = closing.roomier(target, found.widths)
        except InfeasibleBudget:
            return found, count
        if widths is None:
            return found, count
        candidate = tried(closing, target, widths)
        if candidate.used <= 1:
            return candidate, count + 1
        target *= AIM / candidate.used
    return found, ROOMIER


def _try(closing: Closing, target: float, bracket: Bracket) -> Candidate | None:
    """Search for a target and measure; what was measured already is not again. None where the target cannot be met."""
    try:
        widths = closing.search(target)
    except InfeasibleBudget as error:
        if set(error.shortfalls) != {LATENCY}:
            raise
        return None
    for known in (bracket.held, bracket.broke):
        if known is not None and known.widths == widths:
            return replace(known, target=target)
    return tried(closing, target, widths)


def tried(closing: Closing, target: float, widths: Widths, built: nn.Module | None = None) -> Candidate:
    """Build, unless that is done, and measure."""
    original, measured = closing.referee.measure(closing.build(widths) if built is None else built)
    return Candidate(target, widths, closing.predict(widths), original, measured, closing.budget.used(measured))


def _narrowest(closing: Closing, bracket: Bracket) -> Candidate:
    """The narrowest candidate, if it holds.

    Raises:
        InfeasibleBudget: it does not.
    """
    found = tried(closing, 0.0, closing.narrowest)
    if found.used <= 1:
        return found
    limit = closing.budget.limit(found.original.median_s)
    fastest = min(found.measured.high_s, math.inf if bracket.broke is None else bracket.broke.measured.high_s)
    amounts = [format_amount(LATENCY, each) for each in (limit, fastest, found.original.median_s)]
    msg = (
        f"No choice of widths meets the budget.\n  latency: at most {amounts[0]} asked for; the fastest reached takes up to "
        f"{amounts[1]}, of {amounts[2]} originally ({found.measured.device}). Lower floor=, drop blocks (drop=), or ask for "
        "more time"
    )
    raise InfeasibleBudget(msg, {LATENCY: Shortfall(limit, fastest, found.original.median_s)})
