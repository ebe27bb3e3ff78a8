"""Local search: widen one group, alone or in exchange for narrowing another, while that lowers the loss.

Each round lists, by the surrogate, all single moves and all pairs of moves that lower the loss within the slack of
every limit, and checks the most promising ones with the true costs: each alone, and together as many as fit of those
that touch different groups. The best row that holds all limits exactly is where the next round starts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fxprune.search.choices import Bools, Floats, Ints
from fxprune.search.surrogate import Surrogate

Number = TypeVar("Number", np.int64, np.float64)

ROUNDS = 200
MOST_MOVES = 400
MOST_LISTED = 2000
MOST_CHECKED = 100
LEAST_GAIN = 1e-12


@dataclass(frozen=True, slots=True)
class _Moves:
    """Changes of one or two groups' levels, one per row; a change of one group states it twice.

    Attributes:
        groups: which groups, `[moves, 2]`.
        levels: their new levels, `[moves, 2]`.
        distance: units of width that they move, `[moves, 2]`.
        gain: loss that goes away, `[moves]`.
        cost: change in cost, `[moves, metrics]`.
    """

    groups: Ints
    levels: Ints
    distance: Floats
    gain: Floats
    cost: Floats

    def take(self, rows: Ints) -> _Moves:
        """Some of the rows, in the order given."""
        return _Moves(self.groups[rows], self.levels[rows], self.distance[rows], self.gain[rows], self.cost[rows])


def improve(surrogate: Surrogate, levels: Ints) -> Ints:
    """The local optimum that exchanges reach from feasible `levels`."""
    for _ in range(ROUNDS):
        better = _improve_once(surrogate, levels)
        if better is None:
            break
        levels = better
    return levels


def _improve_once(surrogate: Surrogate, levels: Ints) -> Ints | None:
    problem = surrogate.problem
    slack = surrogate.limits - problem.usage(levels[None])[0] / surrogate.scale
    wider, narrower = _single_moves(surrogate, levels)
    fitting = wider.take(np.flatnonzero((wider.cost <= slack).all(axis=1)))
    moves = _best_first(_join(fitting, _exchanges(surrogate, wider, narrower, slack)))
    if not len(moves.gain):
        return None
    best = problem.best(np.concatenate([_each_alone(levels, moves), _all_together(levels, moves, slack)]))
    return best if best is not None and problem.loss_at(best) < problem.loss_at(levels) - LEAST_GAIN else None


def _single_moves(surrogate: Surrogate, levels: Ints) -> tuple[_Moves, _Moves]:
    """Moves that lower the loss, and moves that save cost: of either the most efficient."""
    problem = surrogate.problem
    rows = np.arange(len(levels))
    changes = surrogate.changes(levels)
    gain = problem.loss[rows, levels][:, None] - problem.loss
    total = changes[:, :, surrogate.limits < 1].sum(axis=2)
    distance = surrogate.move - surrogate.move[rows, levels][:, None]
    real = np.arange(problem.loss.shape[1]) < problem.counts[:, None]

    def pick(wanted: Bools, price: Floats) -> _Moves:
        group, level = np.nonzero(wanted)
        cheapest = np.argsort(price[group, level], kind="stable")[:MOST_MOVES]
        group, level = group[cheapest], level[cheapest]
        moved = distance[group, level]
        return _Moves(_twice(group), _twice(level), _twice(moved), gain[group, level], changes[group, level])

    wider, narrower = real & (gain > 0), real & (gain <= 0) & (total < 0)
    return pick(wider, total / np.where(wider, gain, 1.0)), pick(narrower, gain / np.where(narrower, total, 1.0))


def _exchanges(surrogate: Surrogate, wider: _Moves, narrower: _Moves, slack: Floats) -> _Moves:
    """Pairs of a wider and a narrower move that gain and fit the slack."""
    one, other = wider.groups[:, 0], narrower.groups[:, 0]
    gain = wider.gain[:, None] + narrower.gain[None, :]
    fits = (gain > LEAST_GAIN) & (one[:, None] != other[None, :])
    area = wider.distance[:, 0, None] * narrower.distance[None, :, 0]
    for metric, room in enumerate(slack):
        shared = surrogate.pair[metric][np.ix_(one, other)] * area
        fits &= wider.cost[:, metric, None] + narrower.cost[None, :, metric] + shared <= room
    first, second = np.nonzero(fits)
    strongest = np.argsort(-gain[first, second], kind="stable")[:MOST_LISTED]
    first, second = first[strongest], second[strongest]
    shared = surrogate.pair[:, one[first], other[second]] * area[first, second]
    return _Moves(
        np.stack([one[first], other[second]], axis=1),
        np.stack([wider.levels[first, 0], narrower.levels[second, 0]], axis=1),
        np.stack([wider.distance[first, 0], narrower.distance[second, 0]], axis=1),
        gain[first, second],
        wider.cost[first] + narrower.cost[second] + shared.T,
    )


def _twice(column: NDArray[Number]) -> NDArray[Number]:
    return np.stack([column, column], axis=1)


def _join(one: _Moves, other: _Moves) -> _Moves:
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(_Moves))
    return _Moves(*(np.concatenate(pair) for pair in pairs))


def _best_first(moves: _Moves) -> _Moves:
    return moves.take(np.argsort(-moves.gain, kind="stable")[:MOST_LISTED])


def _each_alone(levels: Ints, moves: _Moves) -> Ints:
    """One row per move, for the most gainful."""
    count = min(len(moves.gain), MOST_CHECKED)
    rows = np.repeat(levels[None], count, axis=0)
    rows[np.arange(count)[:, None], moves.groups[:count]] = moves.levels[:count]
    return rows


def _all_together(levels: Ints, moves: _Moves, slack: Floats) -> Ints:
    """Rows that apply one more move each, of those that touch different groups and together fit the slack."""
    touched: set[int] = set()
    rows = [levels]
    for groups, targets, cost in zip(moves.groups, moves.levels, moves.cost, strict=True):
        if not touched.isdisjoint(groups.tolist()) or (cost > slack).any():
            continue
        touched.update(groups.tolist())
        slack = slack - cost
        rows.append(rows[-1].copy())
        rows[-1][groups] = targets
    return np.array(rows[:MOST_CHECKED])
