"""Scores as named arrays, which is how files hold them.

importance.<group>          float64 [size], or [outer size, size]
widths.<group>, loss.<group>   int64 [n] and float64 [n]: the sensitivity curve, where there is one
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fxprune.errors import CheckpointError
from fxprune.scores import Curve, Scores


def arrays_of(scores: Scores) -> dict[str, np.ndarray[Any, Any]]:
    """All numbers of the scores, by name."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        f"importance.{group}": np.asarray(each, dtype=np.float64) for group, each in scores.importance.items()
    }
    for group, curve in scores.sensitivity.items():
        arrays[f"widths.{group}"] = np.array(curve.widths, dtype=np.int64)
        arrays[f"loss.{group}"] = np.array(curve.loss, dtype=np.float64)
    return arrays


def scores_of(scorer: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Scores:
    """The scores that such arrays are.

    Raises:
        CheckpointError: a name, type or shape is none of these, or a number is out of range.
    """
    parts: dict[str, dict[str, np.ndarray[Any, Any]]] = {kind: {} for kind in _TYPES}
    for name, array in arrays.items():
        kind, _, group = name.partition(".")
        if kind not in parts or str(array.dtype) != _TYPES[kind] or array.ndim not in _RANKS[kind]:
            msg = f"{name!r} ({array.dtype}, shape {array.shape}) is no part of scores"
            raise CheckpointError(msg)
        parts[kind][group] = array
    if parts["widths"].keys() != parts["loss"].keys() or not parts["widths"].keys() <= parts["importance"].keys():
        msg = "a sensitivity curve lacks its widths, its losses or its group"
        raise CheckpointError(msg)
    curves = {group: _curve(group, widths, parts["loss"][group]) for group, widths in parts["widths"].items()}
    try:
        return Scores(scorer, {group: each.copy() for group, each in parts["importance"].items()}, curves)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


_TYPES = {"importance": "float64", "widths": "int64", "loss": "float64"}
_RANKS = {"importance": (1, 2), "widths": (1,), "loss": (1,)}


def _curve(group: str, widths: np.ndarray[Any, Any], loss: np.ndarray[Any, Any]) -> Curve:
    if not 0 < len(widths) == len(loss) or (np.diff(widths) <= 0).any() or not np.isfinite(loss).all():
        msg = f"the sensitivity curve of group {group!r} is empty, not ascending or not finite"
        raise CheckpointError(msg)
    return Curve(tuple(widths.tolist()), tuple(loss.tolist()))
