"""The latency model: how long a candidate takes on a backend, predicted for many candidates at once.

    predicted(w) = overhead + sum over fragments f of  factor_kind(f) table_f(sizes of f's basis at w)

Fragments (`fxprune.latency.fragments`) with one signature share one table, which is timed over a grid of widths on the backend
itself, or known from the cache (`fxprune.latency.estimating`); overhead and factors are fitted to whole candidates
(`fxprune.latency.calibrate`), and further
candidates that the fit has not seen say how far off predictions are. Sources: NetAdapt (ECCV 2018), HALP (NeurIPS 2022) and
ZipLM (NeurIPS 2023) choose widths by tables of measured layers; the calibration of the sum is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fxprune.axes import Axis, Variable
from fxprune.latency.basis import Floats, Ints
from fxprune.latency.levels import coordinates
from fxprune.latency.table import Table


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """Fragments that always take the same time.

    Attributes:
        kind: position of their factor.
        count: how many there are.
        basis: the axes whose sizes they depend on.
        table: their time, in seconds.
        envelope: the same, made monotone.
        lookup: the envelope at every whole size of the basis, for the search; None where that is too much.
    """

    kind: int
    count: int
    basis: tuple[Axis, ...]
    table: Table
    envelope: Table
    lookup: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LatencyModel:
    """Predicts how long a model with any widths of its groups takes on a backend.

    Attributes:
        backend: the backend's name.
        device: what it runs on, in words.
        versions: of the packages involved.
        groups: names of the groups, in the order of the columns of widths.
        columns: their variables.
        kinds: names of the kinds of fragments.
        terms: what time is made of.
        factors: overhead in seconds, then the factor of each kind.
        fitted: predicted and measured seconds of the candidates that the factors were fitted to, `[candidates, 2]`.
        held_out: the same of candidates that the fit has not seen.
        refused: fragments that the backend cannot run by themselves, with the reason; the overhead stands for them.
    """

    backend: str
    device: str
    versions: Mapping[str, str]
    groups: tuple[str, ...]
    columns: Mapping[Variable, int]
    kinds: tuple[str, ...]
    terms: tuple[Term, ...]
    factors: Floats
    fitted: Floats
    held_out: Floats
    refused: tuple[str, ...] = ()

    def seconds(self, widths: Ints, *, envelope: bool = False) -> Floats:
        """Predicted seconds `[candidates]` at widths `[candidates, groups]`.

        Args:
            widths: kept indices of every group, in the order of `groups`.
            envelope: instead of the time the least time of all candidates that are at least as wide, by fragment: it
                never falls when a width grows.
        """
        factors: Floats = self.factors
        sums = kind_sums(self.terms, len(self.kinds), self.columns, np.asarray(widths), envelope=envelope)
        return np.asarray(factors[0] + sums @ factors[1:])

    def predict(self, widths: Mapping[str, int]) -> float:
        """Predicted seconds at widths by group."""
        return float(self.seconds(np.array([[widths[name] for name in self.groups]]))[0])

    @property
    def error(self) -> float:
        """Median relative error of the predictions for the candidates held out; NaN where there are none."""
        predicted, measured = self.held_out.T
        return float(np.median(np.abs(predicted / measured - 1))) if len(measured) else float("nan")

    def __str__(self) -> str:
        """One line: what it predicts and how well."""
        known = f"median error {self.error:.1%} on {len(self.held_out)} other candidates" if len(self.held_out) else ""
        return f"latency model of {self.backend} on {self.device}: {len(self.terms)} terms; {known}"


def kind_sums(
    terms: Iterable[Term], kinds: int, columns: Mapping[Variable, int], widths: Ints, *, envelope: bool = False
) -> Floats:
    """Seconds of the fragments of each kind, `[candidates, kinds]`."""
    sums = np.zeros((len(widths), kinds))
    for term in terms:
        places = coordinates(term.basis, columns, widths)
        if envelope and term.lookup is not None:
            sums[:, term.kind] += term.count * term.lookup[tuple(places.astype(np.intp))]
        else:
            sums[:, term.kind] += term.count * (term.envelope if envelope else term.table).at(places)
    return sums
