"""What a group may be cut to, and what each width is expected to lose.

Without a measured sensitivity the loss of a width is the negative logarithm of the energy that it retains. Importances
are energies (squared norms), so with `e(w)` the sum of the `w` largest over the sum of all,

    loss(w) = -log e(w).

The logarithm makes the losses of groups add up: fractions that successive layers retain multiply, so the sum over
groups is the negative logarithm of what gets through all of them. A group that feeds several layers (the residual
stream) starves each of them, so its loss counts once for each. A nested choice (importance `[outer, size]`) keeps the
same number per outer index, each outer index its own best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxprune.errors import PluginError

if TYPE_CHECKING:
    from fxprune.scores import Curve

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

MOST_WIDTHS = 64


@dataclass(frozen=True, slots=True)
class Choices:
    """The candidate widths of one group.

    Attributes:
        group: the group's name.
        widths: candidate widths, ascending; the last is the original size.
        loss: expected loss at each width, not increasing with the width, 0 at the original size.
    """

    group: str
    widths: Ints
    loss: Floats

    def __post_init__(self) -> None:
        """Check order, lengths and the loss at the original size."""
        assert self.widths.ndim == 1, self.group
        assert self.widths.size > 0, self.group
        assert self.widths.shape == self.loss.shape, self.group
        assert self.widths[0] > 0, self.group
        assert (np.diff(self.widths) > 0).all(), self.group
        assert np.isfinite(self.loss).all(), self.group
        assert (np.diff(self.loss) <= 0).all(), self.group
        assert self.loss[-1] == 0, self.group


def loss_of(choices: Sequence[Choices], widths: Mapping[str, int]) -> float:
    """What widths of all groups, each one of its candidates, are expected to lose together."""
    return sum(float(each.loss[np.searchsorted(each.widths, widths[each.group])]) for each in choices)


def build_choices(
    group: str,
    size: int,
    importance: Floats,
    *,
    step: int,
    floor: int,
    sensitivity: Curve | None = None,
    consumers: int = 1,
    widths: Ints | None = None,
) -> Choices:
    """List the widths that a group may be cut to, with the loss of each.

    Args:
        group: the group's name.
        size: its original size.
        importance: energy of each index, `[size]`, or `[outer, size]` where kept indices may differ per outer index.
        step: widths are multiples of this, apart from the original size.
        floor: the smallest width allowed.
        sensitivity: measured loss per width, if there is one; importance then only orders the indices.
        consumers: number of layers that the indices feed; a loss that is not measured counts once for each.
        widths: the candidates, ascending, the original size last; None for those of `step` and `floor`.

    Returns:
        At most about 64 candidates, always with the original size among them.

    Raises:
        PluginError: importance or sensitivity is negative, not finite, or of the wrong shape.
    """
    widths = _candidate_widths(size, step, floor) if widths is None else widths
    loss = (
        _retained_loss(group, size, importance, widths) * max(consumers, 1)
        if sensitivity is None
        else _read_curve(group, sensitivity, size, widths)
    )
    return Choices(group, widths, loss)


def _candidate_widths(size: int, step: int, floor: int) -> Ints:
    """Multiples of `step` from `floor` on, thinned to multiples of a multiple of it, and both ends."""
    assert size > 0
    assert step > 0
    smallest = max(-(-floor // step), 1) * step
    if smallest >= size:
        return np.array([size], dtype=np.int64)
    count = (size - smallest) // step + 1
    stride = step * -(-count // MOST_WIDTHS)
    grid = np.arange(stride, size, stride, dtype=np.int64)
    return np.unique(np.concatenate([[smallest], grid[grid > smallest], [size]]))


def _retained_loss(group: str, size: int, importance: Floats, widths: Ints) -> Floats:
    energy = np.atleast_2d(np.asarray(importance, dtype=np.float64))
    if energy.ndim != 2 or energy.shape[1] != size:
        raise PluginError(f"The importance of group {group!r} has shape {np.shape(importance)}; it has {size} indices.")
    if not (np.isfinite(energy).all() and (energy >= 0).all()):
        raise PluginError(
            f"The importance of group {group!r} holds values that are negative, infinite or not a number."
        )
    peak = energy.max()
    if peak == 0:
        return np.zeros(len(widths))
    strongest_first = -np.sort(-energy / peak, axis=1)
    kept = np.cumsum(strongest_first.sum(axis=0))
    return _tidy(-np.log(np.maximum(kept[widths - 1] / kept[-1], np.finfo(np.float64).tiny)))


def _read_curve(group: str, curve: Curve, size: int, widths: Ints) -> Floats:
    """Interpolate a measured curve; below its narrowest width, its first slope goes on."""
    known = np.asarray(curve.widths, dtype=np.float64)
    order = np.argsort(known, kind="stable")
    known, loss = known[order], np.asarray(curve.loss, dtype=np.float64)[order]
    if not len(known) or not np.isfinite(loss).all():
        raise PluginError(f"The sensitivity of group {group!r} is empty, or holds values that are not finite.")
    if known[-1] < size:
        known, loss = np.append(known, size), np.append(loss, 0.0)
    loss = _tidy(loss - np.interp(size, known, loss))
    slope = (loss[0] - loss[1]) / (known[1] - known[0]) if len(known) > 1 else 0.0
    return _tidy(np.interp(widths, known, loss) + slope * np.maximum(known[0] - widths, 0))


def _tidy(loss: Floats) -> Floats:
    """Make losses non-negative, non-increasing with the width, and exactly 0 at the last."""
    monotone = np.maximum.accumulate(np.maximum(loss, 0.0)[::-1])[::-1].copy()
    monotone[-1] = 0.0
    return monotone
