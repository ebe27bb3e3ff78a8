"""The exact optimum for costs of at most two factors, as a mixed-integer program.

One binary per group and level; a product of two groups' widths becomes continuous variables y_kl >= 0 per pair of
levels with sum_l y_kl = x_k and sum_k y_kl = x_l, which at binary x leaves y_kl = x_k x_l.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from fxprune.search import Choices
from tests.search.synthetic import Floats, SyntheticCosts, Terms


def exact_loss(costs: SyntheticCosts, limits: dict[str, float], choices: list[Choices]) -> float:
    """Lower bound that the solver proves; the optimum up to its tolerance."""
    counts = [len(choice.widths) for choice in choices]
    starts = np.concatenate([[0], np.cumsum(counts)])
    terms = {metric: getattr(costs, metric) for metric in limits}
    pairs = sorted({pair for term in terms.values() for pair in _pairs(term)})
    pair_start = dict(zip(pairs, starts[-1] + np.cumsum([0] + [counts[a] * counts[b] for a, b in pairs]), strict=False))
    size = int(starts[-1] + sum(counts[a] * counts[b] for a, b in pairs))

    equal = [({int(starts[g]) + k: 1.0 for k in range(count)}, 1.0) for g, count in enumerate(counts)]
    for (a, b), start in pair_start.items():
        index = start + np.arange(counts[a] * counts[b]).reshape(counts[a], counts[b])
        equal += [({int(i): 1.0 for i in row} | {int(starts[a]) + k: -1.0}, 0.0) for k, row in enumerate(index)]
        equal += [({int(i): 1.0 for i in row} | {int(starts[b]) + k: -1.0}, 0.0) for k, row in enumerate(index.T)]
    below = [_limit_row(terms[metric], limit, choices, starts, pair_start) for metric, limit in limits.items()]

    result = milp(
        np.concatenate([*(choice.loss for choice in choices), np.zeros(size - starts[-1])]),
        constraints=[
            LinearConstraint(_matrix([row for row, _ in equal], size), *2 * [np.array([side for _, side in equal])]),
            LinearConstraint(_matrix(below, size), -np.inf, 1.0),
        ],
        integrality=(np.arange(size) < starts[-1]).astype(int),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6, "time_limit": 30},
    )
    return float(result.mip_dual_bound)


def _pairs(term: Terms) -> Iterator[tuple[int, int]]:
    for a, b, _ in term.factors.tolist():
        if b >= 0 and a != b:
            yield min(a, b), max(a, b)


def _limit_row(
    term: Terms, limit: float, choices: list[Choices], starts: Floats, pair_start: dict[tuple[int, int], int]
) -> dict[int, float]:
    """Cost over the room that constants leave; at most 1."""
    row: dict[int, float] = {}
    factors = term.factors.tolist()
    room = limit - sum(c for c, (a, _, _) in zip(term.coefficients, factors, strict=True) if a < 0)
    for coefficient, (a, b, _) in zip(term.coefficients, factors, strict=True):
        if a < 0:
            continue
        first, second = (a, b) if b < 0 else (min(a, b), max(a, b))
        amounts = choices[first].widths.astype(float)
        start = int(starts[first])
        if b == a:
            amounts = amounts**2
        elif b >= 0:
            amounts = np.outer(amounts, choices[second].widths).ravel()
            start = int(pair_start[first, second])
        for i, amount in enumerate(amounts):
            row[start + i] = row.get(start + i, 0.0) + coefficient * amount / room
    return row


def _matrix(rows: list[dict[int, float]], size: int) -> csr_array:
    columns = [column for row in rows for column in row]
    values = [value for row in rows for value in row.values()]
    indices = [i for i, row in enumerate(rows) for _ in row]
    return csr_array((values, (indices, columns)), shape=(len(rows), size))
