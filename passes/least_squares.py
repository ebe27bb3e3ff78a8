"""Ridge regression from second moments: what correction of a layer's weights best restores its outputs.

With rows A [n, d] of inputs and residuals R = Y - A W - b [n, o] of the weights that are there, the correction D and the
constant s minimise

    || R - A D - 1 s^T ||^2 + ridge * tr(D^T D),   ridge = lambda * mean diagonal of A^T A

The ridge pulls towards the weights that are there, not towards zero. Only the moments A^T A, A^T R, and the sums are kept,
in float64, so that data can be added in any portions; the constant is eliminated by centring, S = A^T A - n m m^T. Errors on
data that took no part in the fit are quadratic forms in that data's own moments, so choosing lambda costs one Cholesky
factorisation for each value and no second look at the data. Layers with groups hold one problem for each group.

A solution may rest on large weights that cancel each other, where inputs nearly repeat one another. It is right on such data and
on nothing near it: a little training, rounding, or a repair of an earlier layer, and the outputs are far off. So lambda is
chosen by the error that is expected when each input carries noise of NOISE times its own deviation,

    || R - A D - 1 s^T ||^2 + n NOISE^2 sum_i var_i || (W + D)_i ||^2.

Noise does not count where nothing is lost: a solution with an error below EXACT, whose weights cancel no more than what inputs
that do not repeat each other would give (a strain below MODEST), is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import torch
from torch import Tensor

from fxprune.distributed import together, world
from fxprune.passes.finite import NotFiniteError

RIDGES = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for lambda, ascending."""


NOISE = 0.25
"""Deviation of the noise that a solution has to bear, relative to that of each input."""
EXACT, MODEST = 1e-3, 4.0
"""Relative squared error and strain (see `Moments.strain`) below which a solution restores everything without cancelling."""
CONSTANT = 1e-10
"""Share of its sum of squares that what varies by nothing but rounding has around its mean at most."""


@dataclass(slots=True)
class Moments:
    """Second moments of rows and residuals, float64, one set for each group.

    Attributes:
        count: number of rows.
        gram: sum of a a^T, [groups, d, d].
        cross: sum of a r^T, [groups, d, o].
        inputs: sum of a, [groups, d].
        residuals: sum of r, [groups, o].
        squares: sum of r^2 over everything.
        targets: sum of y, [groups, o].
        target_squares: sum of y^2, [groups, o].
    """

    count: int
    gram: Tensor
    cross: Tensor
    inputs: Tensor
    residuals: Tensor
    squares: Tensor
    targets: Tensor
    target_squares: Tensor

    @classmethod
    def of(cls, rows: Tensor, residuals: Tensor, targets: Tensor) -> Moments:
        """Moments of one portion: rows [groups, n, d], residuals and targets [groups, n, o]."""
        a, r, y = rows.double(), residuals.double(), targets.double()
        return cls(
            rows.shape[1],
            a.mT @ a,
            a.mT @ r,
            a.sum(1),
            r.sum(1),
            r.square().sum(),
            y.sum(1),
            y.square().sum(1),
        )

    def __add__(self, other: Moments) -> Moments:
        """Moments of both portions."""
        return Moments(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def to(self, device: torch.device) -> Moments:
        """The same on another device."""
        tensors: list[Tensor] = [getattr(self, each.name) for each in fields(self) if each.name != "count"]
        return Moments(self.count, *(each.to(device) for each in tensors))

    @property
    def energy(self) -> float:
        """Sum of squares of the targets around their means, over everything; errors are relative to it."""
        return float(self._spread_of_targets.sum())

    @property
    def _spread_of_targets(self) -> Tensor:
        return self.target_squares - self.targets.square() / max(self.count, 1)

    def shortfall(self, weights: Tensor) -> Tensor:
        """By what outputs of weights [groups, d, o] deviate less than the targets: [groups, o], 1 where either is constant."""
        mean = self.inputs / max(self.count, 1)
        gram = self.gram - self.count * mean[:, :, None] * mean[:, None, :]
        now, wanted = (weights * (gram @ weights)).sum(1), self._spread_of_targets
        sizes = self.gram.diagonal(dim1=-2, dim2=-1).sqrt()
        terms = (weights.abs() * sizes[:, :, None]).sum(1).square()  # no less than what `now` is the difference of
        varies = (now > CONSTANT * terms) & (wanted > CONSTANT * self.target_squares)
        return torch.where(varies, wanted / torch.where(varies, now, 1.0), 1.0).sqrt()

    def strain(self, weights: Tensor) -> float:
        """What independent noise of each input's own deviation would do to the outputs of weights [groups, d, o].

        Expected sum of squares, relative to the energy of the targets: about 1 where inputs do not repeat each other.
        """
        mean = self.inputs / max(self.count, 1)
        spread = (self.gram.diagonal(dim1=-2, dim2=-1) - self.count * mean.square()).clamp_min(0)
        total = float((spread[:, :, None] * weights.square()).sum())
        return total / max(self.energy, torch.finfo(torch.float32).tiny)

    def error(self, correction: Correction | None = None) -> float:
        """Sum of squared residuals after a correction, relative to the energy of the targets."""
        total = self.squares
        if correction is not None:
            d, s = correction.matrix, correction.constant
            through = (self.inputs[:, None] @ d)[:, 0]
            total = total - 2 * (d * self.cross).sum() + (d * (self.gram @ d)).sum()
            total = total - 2 * (s * self.residuals).sum() + 2 * (s * through).sum() + self.count * s.square().sum()
        return max(float(total), 0.0) / max(self.energy, torch.finfo(torch.float32).tiny)


def added(make: Callable[[], tuple[Moments | None, Moments | None]], device: torch.device) -> tuple[Moments, Moments]:
    """Pairs of moments of all processes, added in the order of the ranks, so that all have the same; None counts as nothing."""
    found = [make()] if world()[1] == 1 else together(lambda: _on_cpu(make()))
    fit, held = (reduce(add, (each for each in portion if each is not None)) for portion in zip(*found, strict=True))
    return fit.to(device), held.to(device)


def _on_cpu(pair: tuple[Moments | None, Moments | None]) -> tuple[Moments | None, Moments | None]:
    fit, held = (None if each is None else each.to(torch.device("cpu")) for each in pair)
    return fit, held


@dataclass(frozen=True, slots=True)
class Correction:
    """What to add to a layer's matrices [groups, d, o] and outputs [groups, o], and the ridge that it was found with."""

    matrix: Tensor
    constant: Tensor
    ridge: float


def solve(moments: Moments, ridge: float, *, free_mean: bool) -> Correction:
    """The correction for one ridge, relative to the mean diagonal; the constant is zero where it is not free."""
    mean = moments.inputs / max(moments.count, 1) * float(free_mean)
    gram = moments.gram - moments.count * mean[:, :, None] * mean[:, None, :]
    cross = moments.cross - mean[:, :, None] * moments.residuals[:, None, :]
    matrix = torch.cholesky_solve(cross, factor(gram, ridge))
    constant = moments.residuals / max(moments.count, 1) - (mean[:, None] @ matrix)[:, 0]
    return Correction(matrix, constant * float(free_mean), ridge)


def factor(gram: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of gram + ridge * mean diagonal, the ridge raised where that is not positive definite.

    Raises:
        NotFiniteError: the matrix is not finite.
    """
    if not gram.isfinite().all():
        raise NotFiniteError("what a layer sees on the calibration data is not finite")
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = diagonal.mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    while True:
        shifted = gram + torch.diag_embed((ridge * scale).expand_as(diagonal))
        found, failed = torch.linalg.cholesky_ex(shifted)
        if not failed.any():
            factors: Tensor = found
            return factors
        ridge = max(10 * ridge, 1e-12)


def choose(
    fit: Moments, held: Moments, ridges: Sequence[float], weights: Tensor, *, free_mean: bool
) -> tuple[Correction | None, float]:
    """The correction that is best on held-out data with a little noise, found anew on all of it; None where none improves.

    The expected error has one valley over the ridge: the search goes down from the largest and stops where it rises.

    Args:
        fit: data to fit.
        held: data to choose by.
        ridges: candidates.
        weights: those that are corrected, [groups, d, o].
        free_mean: whether a constant can be added.

    Returns:
        The correction, and the held-out relative error of the one that was fitted without that data.
    """
    own = weights.double()
    best, least, former = None, _expected(held.error(), held.strain(own)), float("inf")
    for candidate in _candidates(fit, ridges, free_mean=free_mean):
        found = _expected(held.error(candidate), held.strain(own + candidate.matrix))
        if found < least:
            best, least = candidate, found
        if found > former:
            break
        former = found
    error = held.error(best)
    if best is None or best.ridge == float("inf"):
        return best, error
    return solve(fit + held, best.ridge, free_mean=free_mean), error


def _expected(error: float, strain: float) -> float:
    """Squared error with noise in the inputs, relative to the energy; without it where nothing is lost."""
    return error if error < EXACT and strain < MODEST else error + NOISE**2 * strain


def _candidates(fit: Moments, ridges: Sequence[float], *, free_mean: bool) -> Iterator[Correction]:
    """Compensation of the means alone (an infinite ridge), then one correction for each ridge, the largest first."""
    if free_mean:
        yield Correction(torch.zeros_like(fit.cross), fit.residuals / max(fit.count, 1), float("inf"))
    for each in sorted(ridges, reverse=True):
        yield solve(fit, each, free_mean=free_mean)
