"""Calibration end to end: what the sum of fragments' times has to be multiplied with to be the time of the model.

Fused, in one piece and with warm or cold caches, a model takes another time than its fragments by themselves. With S_k(w) the
sum of the times of the fragments of kind k (convolutions, linear layers, ...) at widths w, some whole candidates are measured,
T(w), and

    T(w) = overhead + sum_k factor_k S_k(w)

is solved for non-negative factors by least squares of relative errors, with a weak pull of all factors towards 1 so that kinds
that always shrink together get a share each. What is constant in all candidates goes into the overhead. Non-negative factors keep
the model monotone.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from fxprune.latency.basis import Floats

PULL = 0.02
"""Relative error that a factor of 2 instead of 1 is worth."""


def fit(sums: Floats, measured: Floats) -> Floats:
    """Overhead and factors, `[1 + kinds]`, non-negative.

    Args:
        sums: seconds of the fragments of each kind, `[candidates, kinds]`.
        measured: seconds of the whole candidates, `[candidates]`.
    """
    kinds = sums.shape[1]
    rows = np.concatenate([np.ones((len(sums), 1)), sums], axis=1) / measured[:, None]
    pull = np.concatenate([np.zeros((kinds, 1)), PULL * np.eye(kinds)], axis=1)
    matrix = np.concatenate([rows, pull])
    wanted = np.concatenate([np.ones(len(measured)), np.full(kinds, PULL)])
    return nonnegative(matrix, wanted)


def nonnegative(matrix: Floats, wanted: Floats) -> Floats:
    """The non-negative x that minimises |matrix x - wanted|, exactly: the best of all supports, for few columns.

    Example:
        >>> nonnegative(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([2.0, -1.0])).tolist()
        [2.0, 0.0]
    """
    columns = matrix.shape[1]
    best, least = np.zeros(columns), float(np.linalg.norm(wanted))
    for count in range(1, columns + 1):
        for support in map(list, combinations(range(columns), count)):
            found, *_ = np.linalg.lstsq(matrix[:, support], wanted, rcond=None)
            error = float(np.linalg.norm(matrix[:, support] @ found - wanted))
            if (found >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(columns), error
                best[support] = found
    return best
