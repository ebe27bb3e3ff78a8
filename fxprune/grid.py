"""Candidates on a grid: one width per kind, some blocks dropped, all combinations near a budget; the best are tried out.

1. For each number of blocks to drop, the least important ones go (`fxprune.depth`).
2. Of what remains, each kind of group may keep some evenly spaced widths; with `config=True` the groups that one set of the
   configuration's fields decides go together instead, at widths that it can say. All combinations whose costs hold every limit,
   and come within `near` of one of them, are candidates.
3. Candidates of one depth are ranked by the loss that the scores predict. What blocks and widths lose does not compare, so
   every depth sends the same number of its best, `top` together, and the most promising ones first.
4. Each is measured on the original with switches (`fxprune.passes.trials`); the best is built.

Source: Minitron's architecture search (arXiv 2407.14679, section 2.3), without its short training of each candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fxprune.batches import reiterable
from fxprune.depth import Depth
from fxprune.dropping import without_least
from fxprune.errors import InfeasibleBudget, InputError
from fxprune.exclusive import exclusive
from fxprune.fingerprint import digest
from fxprune.kinds import find_kinds, tied_ranges
from fxprune.language import is_causal_language_model
from fxprune.passes.trials import Trials
from fxprune.patterns import fold_names
from fxprune.pruning import Subject, choices_of
from fxprune.search.choices import Choices, Floats, Ints
from fxprune.search.problem import Problem, pose, require_feasible
from fxprune.search.ties import Tie, TiedCosts, tie
from fxprune.widths import Align, Floor, Range, keep_most_important, width_ranges

if TYPE_CHECKING:
    from fxprune.budget import Budget
    from fxprune.scorer import Context
    from fxprune.scores import Scores

GRID = "grid"
"""Name of the search."""
MOST = 500_000
"""Largest number of combinations that are looked at for one depth; grids get coarser to stay below."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A search over a grid of candidates, for `compile(..., search=Grid(...))`.

    Attributes:
        top: number of candidates that are measured.
        depth: numbers of blocks to drop that are tried; (0,) for width only.
        width: whether widths are cut; False for depth only.
        steps: widths that each kind of group may keep, at most.
        near: how far below the limits candidates may lie, as a share of them.
        contiguous: whether dropped blocks follow each other.
        held_out: batches that language models are measured on; None for the first of `data`.
        batches: largest number of batches for that.
    """

    top: int = 10
    depth: Sequence[int] = (0,)
    width: bool = True
    steps: int = 12
    near: float = 0.05
    contiguous: bool = False
    held_out: Iterable[Any] | None = field(default=None, compare=False)
    batches: int = 32

    def __post_init__(self) -> None:
        """Refuse options that say nothing."""
        valid = self.top >= 1 and self.steps >= 2 and 0 < self.near <= 1 and self.batches >= 1 and len(self.depth) > 0
        if not valid:
            msg = f"{self} needs top >= 1, steps >= 2, 0 < near <= 1, batches >= 1 and at least one depth"
            raise InputError(msg)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination of depth and widths.

    Attributes:
        dropped: names of the blocks that go.
        kinds: names of the groups that go together -> the width of the first.
        widths: name of each group -> its width.
        costs: metric -> absolute amount.
        loss: what the scores predict; comparable among candidates of one depth.
        score: what was measured, higher is better; None where it was not.
    """

    dropped: tuple[str, ...]
    kinds: Mapping[str, int]
    widths: Mapping[str, int]
    costs: Mapping[str, float]
    loss: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """The model at one depth, and its scores."""

    subject: Subject
    scores: Scores


def levels_of(subject: Subject, scores: Scores, context: Context, grid: Grid) -> list[Level]:
    """The model at each depth of the grid; blocks that were named stay dropped in all of them.

    Raises:
        InputError: blocks are dropped by name and by number, or there are not that many.
    """
    depths = [Depth(count, grid.contiguous) for count in dict.fromkeys(grid.depth)]
    if subject.dropped and any(depth.count for depth in depths):
        msg = "drop= and the grid's depth both drop blocks; leave one of them out"
        raise InputError(msg)
    return [Level(*without_least(subject, scores, depth, context)) for depth in depths]


def list_candidates(
    levels: Sequence[Level], limits: Budget, grid: Grid, align: Align | None, floor: Floor | None
) -> list[tuple[Level, Candidate]]:
    """All candidates: of all depths in turn, those first that are predicted to lose least.

    Raises:
        InfeasibleBudget: no depth can meet the limits.
    """
    found: list[list[tuple[Level, Candidate]]] = []
    failures: list[InfeasibleBudget] = []
    for level in levels:
        try:
            found.append([(level, each) for each in _of_level(level, limits, grid, align, floor)])
        except InfeasibleBudget as error:
            failures.append(error)
    if not found:
        raise failures[-1]
    return [each for turn in zip_longest(*found) for each in turn if each is not None]


def _of_level(level: Level, limits: Budget, grid: Grid, align: Align | None, floor: Floor | None) -> list[Candidate]:
    """The best candidates of one depth, the least predicted loss first."""
    analysis = level.subject.analysis
    scores = level.scores if grid.width else replace(level.scores, whole=frozenset(analysis.costs.groups))
    choices, ties = _options(level.subject, scores, width_ranges(analysis, align, floor))
    costs, of_kinds = tie(analysis.costs, choices, ties)
    problem = pose(costs, limits.limits, _coarse(of_kinds, grid.steps))
    _check_size(problem)
    require_feasible(problem)
    rows = _near(problem, grid.near)
    order = np.argsort(problem.loss_at(rows), kind="stable")
    return [_candidate(problem, costs, row, level.subject) for row in rows[order[: grid.top]]]


def _options(subject: Subject, scores: Scores, ranges: Mapping[str, Range]) -> tuple[list[Choices], Sequence[Tie]]:
    """Widths of every group, and which groups go together: those of a kind, or those that the configuration says as one."""
    analysis, sayable = subject.analysis, subject.sayable
    if sayable is not None:
        return choices_of(
            analysis, scores, ranges, sayable.candidates(analysis.groups, ranges, scores.whole)
        ), sayable.ties
    kinds = find_kinds(analysis)
    return choices_of(analysis, scores, tied_ranges(ranges, kinds)), [Tie(kind.groups, kind.size) for kind in kinds]


def _coarse(choices: Sequence[Choices], steps: int) -> list[Choices]:
    """At most `steps` widths of each kind, fewer where there would be too many combinations."""
    while True:
        made = [_thinned(choice, steps) for choice in choices]
        if steps == 2 or prod(len(each.widths) for each in made) <= MOST:
            return made
        steps -= 1


def _check_size(problem: Problem) -> None:
    """Refuse grids that no one can list.

    Raises:
        InputError: even with two widths of each kind there are too many combinations.
    """
    count = prod(problem.counts.tolist())
    if count > MOST:
        kinds = int((problem.counts > 1).sum())
        msg = (
            f"a grid over {kinds} kinds of groups has {count:.0e} combinations, more than {MOST:,}: it is for models of "
            'repeated blocks. Leave groups out by ignore=, or take search="uniform" or "knapsack"'
        )
        raise InputError(msg)


def _thinned(choice: Choices, steps: int) -> Choices:
    """Evenly spaced candidates, the narrowest and the widest among them."""
    if len(choice.widths) <= steps:
        return choice
    at = np.unique(np.linspace(0, len(choice.widths) - 1, steps).round().astype(np.int64))
    return Choices(choice.group, choice.widths[at], choice.loss[at])


def _near(problem: Problem, near: float) -> Ints:
    """Rows of levels that hold all limits and come near one of them; of what is farther, the nearest."""
    rows = np.stack(np.unravel_index(np.arange(problem.counts.prod()), problem.counts), axis=1)
    usage = problem.usage(rows)
    allowed = (usage <= problem.limits).all(axis=1)
    rows, share = rows[allowed], _share(usage[allowed], problem.limits)
    found: Ints = rows[share >= min(1 - near, float(share.max()))]
    return found


def _share(usage: Floats, limits: Floats) -> Floats:
    """How much of the tightest limit each row takes; without limits all of it."""
    if not len(limits):
        return np.ones(len(usage))
    shares: Floats = (usage / np.maximum(limits, 1e-300)).max(axis=1)
    return shares


def _candidate(problem: Problem, tied: TiedCosts, row: Ints, subject: Subject) -> Candidate:
    chosen, names = problem.widths_at(row), tied.whole.groups
    widths = tied.expand(chosen[None])
    together = [", ".join(fold_names([names[at] for at in column])) for column in tied.columns]
    return Candidate(
        tuple(block.name for block in subject.dropped),
        dict(zip(together, chosen.tolist(), strict=True)),
        dict(zip(names, widths[0].tolist(), strict=True)),
        {metric: float(each[0]) for metric, each in subject.analysis.costs.evaluate(widths).items()},
        float(problem.loss_at(row)),
    )


def measured(
    candidates: Sequence[tuple[Level, Candidate]], context: Context, grid: Grid
) -> list[tuple[Level, Candidate]]:
    """The first candidates with their scores, the best first; of equals the first.

    Raises:
        InputError: there is nothing to measure them by.
    """
    first = list(candidates[: grid.top])
    held_out = context.data if grid.held_out is None else reiterable(grid.held_out)
    if context.score is None and (held_out is None or not is_causal_language_model(context.model)):
        msg = "the grid measures its best candidates: pass score=, or data= (or held_out=) with a causal language model"
        raise InputError(msg)
    batches = [] if context.score is not None else list(replace(context, data=held_out).batches(grid.batches))
    trials = Trials(context, batches)
    by_key = {_key(candidate, grid): (level, candidate) for level, candidate in first}

    def evaluate(key: str) -> dict[str, float]:
        level, candidate = by_key[key]
        kept = keep_most_important(level.subject.analysis.groups, level.scores, candidate.widths)
        return {"score": trials.evaluate(level.subject.analysis, kept)}

    found = context.evaluate(list(by_key), evaluate, "candidates")
    scored = [(level, replace(each, score=float(found[key]["score"]))) for key, (level, each) in by_key.items()]
    return sorted(scored, key=lambda pair: pair[1].score or 0.0, reverse=True)


def _key(candidate: Candidate, grid: Grid) -> str:
    """What decides a measurement, beside what the fingerprint of the checkpoint holds."""
    return f"candidate {digest([list(candidate.dropped), dict(candidate.widths), grid.batches, grid.held_out])}"


def best_of_grid(
    subject: Subject, scores: Scores, limits: Budget, context: Context, grid: Grid
) -> tuple[Level, Candidate]:
    """The best candidate; the only one of all needs no measurement.

    Raises:
        InputError: the grid cannot be searched as asked for.
        InfeasibleBudget: no candidate meets the limits.
    """
    levels = levels_of(subject, scores, context, grid)
    candidates = list_candidates(levels, limits, grid, context.align, context.floor)
    level, candidate = candidates[0] if len(candidates) == 1 else measured(candidates, context, grid)[0]
    effort = {**level.scores.effort, "candidates measured": min(len(candidates), grid.top)}
    return Level(level.subject, replace(level.scores, effort=effort)), candidate


@exclusive
def on_grid(
    subject: Subject, scores: Scores, limits: Budget, context: Context, search: str | Grid | None
) -> tuple[Subject, Scores, Mapping[str, int] | None]:
    """What the grid chooses, if `search` is one; else what came in, and no widths.

    Raises:
        InputError: the grid cannot be searched as asked for.
    """
    if isinstance(search, str | None) and search != GRID:
        return subject, scores, None
    level, candidate = best_of_grid(subject, scores, limits, context, search if isinstance(search, Grid) else Grid())
    return level.subject, level.scores, candidate.widths
