"""Scorer `obs`: structured optimal brain surgeon, in the unit of the model's own outputs. Needs data, but no labels.

For every dependency group the layers that consume its indices say what losing one costs them, once the remaining inputs make
up for it (`fxprune.passes.elimination`); the order of greedy removal is the importance, and the accumulated error, relative
to the energy of each layer's output, a curve over widths. Such local errors say little about what the model returns: a
layer's output may be a small part of a residual stream, or be ignored later on. So the curve is calibrated: the group alone
is cut to a few widths in the original with switches, its consumers repaired in closed form, and the distortion of the
model's outputs measured. Through the measured points goes a power law in the local error E,

    D(w) = D_m * (E(w) / E_m)^p,   p the slope between neighbouring measurements on a logarithmic scale

which makes the losses of all groups comparable: to first order distortions of independent changes add up. A group
without weights behind it (query/key dimensions, which attention multiplies with each other) is ordered by the energies in both
operands.

Sources: ZipLM (Kurtic et al., NeurIPS 2023), OSSCAR (Meng et al., ICML 2024), SlimGPT (Ling et al., NeurIPS 2024); the
calibration against the outputs is fxprune's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxprune.batches import Batch
from fxprune.groups import Group
from fxprune.passes.consumers import Consumers, Seen, consumers_of, problems, products_of, repaired
from fxprune.passes.distortion import Distortion
from fxprune.passes.elimination import Elimination, eliminate
from fxprune.passes.finite import NotFiniteError
from fxprune.passes.gather import Gatherer, gather, product_energies, view_of
from fxprune.passes.magnitude import group_energies
from fxprune.passes.silence import silenced_model
from fxprune.scores import Curve, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.analysis import Analysis
    from fxprune.scorer import Context

TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Obs:
    """Scores by what the consumers of an index lose, calibrated on the model's outputs.

    Attributes:
        rows: positions of each layer that are looked at, about.
        ridge: damping of the Gram matrices, relative to each entry of their diagonal.
        shares: widths at which the outputs are measured, as shares of the group's size; none to leave curves local.
        samples: samples that the outputs are measured on, about.
        batches: largest number of batches that are looked at.
    """

    rows: int = 32768
    ridge: float = 1e-3
    shares: tuple[float, ...] = (0.75, 0.4)
    samples: int = 64
    batches: int = 512
    name: str = "obs"
    needs: frozenset[str] = field(default=frozenset({"data"}))

    def score(self, context: Context) -> Scores:
        """Order of removal and calibrated loss by width, for every group."""
        assert context.data is not None
        batches = list(context.batches(self.batches))
        with torch.no_grad():
            consumers = self._consumers(context.analysis, batches, context.seed)
            found = self._orders(context, consumers)
            curves = self._curves(context, found, consumers, batches)
        importance = {group.name: importance_of(found[group.name], group) for group in context.groups}
        return Scores(self.name, importance, curves, effort={"evaluations": len(self.shares) * len(context.groups)})

    def _consumers(self, analysis: Analysis, batches: Sequence[Batch], seed: int) -> Consumers:
        """Run the data once and take in what the consumers of all groups see."""
        layers = {group.name: consumers_of(analysis, group) for group in analysis.groups}
        products = [
            each for group in analysis.groups if not layers[group.name] for each in products_of(analysis, group)
        ]
        wanted = {layer.node: layer for own in layers.values() for layer, _ in own}
        limit = max(1, -(-self.rows // len(batches)))
        gatherer = Gatherer(analysis.program, list(wanted.values()), products, limit, seed)
        gather(gatherer, batches)
        seen = {
            name: [Seen(layer, gatherer.inputs[view_of(layer, analysis.program)], labels) for layer, labels in own]
            for name, own in layers.items()
        }
        return Consumers(seen, product_energies(gatherer))

    def _orders(self, context: Context, consumers: Consumers) -> dict[str, Elimination]:
        """The order of removal of every group: each a piece of work of its own, shared and remembered."""
        groups = {f"order of {group.name}": group for group in context.groups}

        def compute(key: str) -> dict[str, Any]:
            found = self._eliminate(context, groups[key], consumers)
            return {"order": found.order.cpu().numpy(), "widths": list(found.widths), "errors": list(found.errors)}

        found = context.evaluate(list(groups), compute, "removal orders")
        return {
            group.name: Elimination(
                torch.tensor(found[key]["order"]), tuple(found[key]["widths"]), tuple(found[key]["errors"])
            )
            for key, group in groups.items()
        }

    def _eliminate(self, context: Context, group: Group, consumers: Consumers) -> Elimination:
        seen = consumers.layers[group.name]
        if seen:
            rows = 1 if group.outer is None else group.outer.size
            return eliminate(problems(context.analysis, seen, self.ridge), group.size, rows)
        energy = consumers.energies.get(group.name)
        if energy is not None and not energy.isfinite().all():
            raise NotFiniteError(f"what products read of group {group.name!r} is not finite")
        return by_energy(torch.from_numpy(group_energies(context, group)) if energy is None else energy.cpu())

    def _curves(
        self,
        context: Context,
        found: Mapping[str, Elimination],
        consumers: Consumers,
        batches: Sequence[Batch],
    ) -> dict[str, Curve]:
        """Local errors, turned into distortions of the outputs where widths to measure are given."""
        if not self.shares:
            return {name: curve_of(each.widths, np.array(each.errors)) for name, each in found.items()}
        analysis = context.analysis
        distortion = Distortion(silenced_model(analysis), _few(batches, self.samples))
        groups = {f"effect of {group.name}": group for group in analysis.groups}

        def compute(key: str) -> dict[str, Any]:
            group = groups[key]
            points = self._measure(analysis, group, found[group.name], consumers.layers[group.name], distortion)
            return {"points": np.array(points)}

        effects = context.evaluate(list(groups), compute, "effect on the outputs")
        curves: dict[str, Curve] = {}
        for key, group in groups.items():
            own, points = found[group.name], [(error, effect) for error, effect in effects[key]["points"].tolist()]
            curves[group.name] = curve_of(own.widths, calibrated(np.array(own.errors), points))
        return curves

    def _measure(
        self,
        analysis: Analysis,
        group: Group,
        elimination: Elimination,
        seen: Sequence[Seen],
        distortion: Distortion,
    ) -> list[tuple[float, float]]:
        """Pairs of local error and distortion at the widths nearest to the shares."""
        points: list[tuple[float, float]] = []
        possible = sum(width >= group.least for width in elimination.widths)
        for share in self.shares if possible > 1 else ():
            at = int(np.argmin([abs(width - share * group.size) for width in elimination.widths[1:possible]])) + 1
            width = elimination.widths[at]
            kept = np.sort(elimination.order[:, group.size - width :].numpy(), axis=1)
            weights = repaired(analysis, group, kept, seen, self.ridge)
            measured = distortion.measure({group.name: kept if group.outer is not None else kept[0]}, weights)
            points.append((elimination.errors[at], measured))
        return points


def by_energy(energy: Tensor) -> Elimination:
    """Smallest energies first; the error is the share that is lost."""
    energy = energy[None] if energy.dim() == 1 else energy
    ordered, order = torch.sort(energy, dim=1, stable=True)
    size = energy.shape[1]
    lost = ordered.cumsum(1).sum(0) / energy.sum().clamp_min(torch.finfo(torch.float32).tiny)
    errors = (0.0, *lost[: size - 1].tolist())
    return Elimination(order, tuple(range(size, 0, -1)), errors)


def calibrated(errors: NDArray[np.float64], points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Local errors turned into distortions by a power law through the measured points."""
    usable = sorted({(error, measured) for error, measured in points if error > TINY and measured > TINY})
    if not usable:
        top = max((measured for _, measured in points), default=0.0)
        return errors / max(float(errors.max()), TINY) * top
    x, y = np.log([error for error, _ in usable]), np.log([measured for _, measured in usable])
    logs = np.log(np.maximum(errors, TINY))
    if len(usable) == 1:
        found = y[0] + logs - x[0]
    else:
        slope = float(np.clip((y[-1] - y[0]) / max(x[-1] - x[0], TINY), 0.5, 2.0))
        found = np.where(logs < x[0], y[0] + slope * (logs - x[0]), np.interp(logs, x, y))
        found = np.where(logs > x[-1], y[-1] + slope * (logs - x[-1]), found)
    made: NDArray[np.float64] = np.where(errors > TINY, np.exp(found), 0.0)
    return made


def importance_of(elimination: Elimination, group: Group) -> NDArray[np.float64]:
    """What each removal cost, made strictly increasing: the later an index goes, the more important it is."""
    spans = np.array(elimination.widths[:-1]) - np.array(elimination.widths[1:])
    rates = np.repeat(np.diff(np.array(elimination.errors)) / spans, spans)
    rates = np.maximum.accumulate(np.append(rates, rates[-1:] if len(rates) else [1.0]))
    rates += max(float(rates[-1]), TINY) * 1e-6 * np.arange(1, len(rates) + 1) / len(rates)
    importance = np.empty(elimination.order.shape)
    np.put_along_axis(importance, elimination.order.numpy(), np.broadcast_to(rates, importance.shape), axis=1)
    return importance if group.outer is not None else importance[0]


def curve_of(widths: Sequence[int], errors: NDArray[np.float64]) -> Curve:
    """Ascending widths, losses that do not increase with the width."""
    losses = np.maximum.accumulate(errors)
    return Curve(tuple(reversed(widths)), tuple(reversed(losses.tolist())))


def _samples(batch: Batch) -> int:
    tensors = [each for each in tree_leaves((batch.args, batch.kwargs)) if isinstance(each, Tensor) and each.dim()]
    return int(tensors[0].shape[0]) if tensors else 1


def _few(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """The first batches that hold about so many samples."""
    found: list[Batch] = []
    for batch in batches:
        found.append(batch)
        samples -= _samples(batch)
        if samples <= 0:
            break
    return found
