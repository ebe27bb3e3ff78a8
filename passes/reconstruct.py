"""Closed-form repair: the weights that best restore what each layer gave before the cut. No labels, no training.

A cut takes inputs from a layer; what the kept ones can say about the lost ones, and about their means, can be put into the
layer's weights and bias. For every linear layer and convolution, in graph order,

    min over W, b of  || A_slim W + b - Y ||^2 + ridge * || W - W_cut ||^2

where A_slim are the inputs that the *repaired* slim model gives it and Y is what the *original* computes there, restricted
to the outputs that are kept: later repairs see, and mend, what earlier ones left (asymmetric calibration). Where the
layer writes into a residual stream, what the stream already lacks is added to its target,

    Y = y_original + (stream_original - stream_slim),

so that the layer corrects the stream and not only itself. The ridge is chosen for each layer on held-out calibration data,
and a layer that does not gain there keeps its weights as cut.

Where blocks were dropped, the original is the model with them. Layers behind a gap correct the stream for what a block would
have added; and where the block alone reads the stream in front of it, the layer that writes into it there aims at what
the block puts out, as that is what all readers of the slim stream expect.

A BatchNorm behind a repaired layer is measured anew before what comes after it is repaired (`fxprune.passes.normed`). It does
not see how long the weights in front of it are, but training does: a step changes its output the more, the less its input
varies. What is repaired varies less than the original, by what could not be restored; so each output's weights are made as
much longer as lets it vary as in the original.

Several processes each carry their share of the batches through both models; moments are added for each layer, so that all
solve the same equations and end with the same weights: those of one process, up to rounding.

Sources: least-squares repair with second moments as in OBC and ZipLM (Frantar and Alistarh 2022; Kurtic et al., NeurIPS
2023), OSSCAR (Meng et al., ICML 2024); asymmetric calibration as in GPTAQ (Li et al., ICML 2025); bias compensation as in
FLAP (An et al., AAAI 2024); a dropped block's part taken over by the layer in front of it as in ReplaceMe (Shopkhoev et al.,
NeurIPS 2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.analysis import Analysis
from fxprune.batches import Batch
from fxprune.blocks import Block
from fxprune.cut import Cut
from fxprune.distributed import mine, together
from fxprune.errors import InputError, VerificationError
from fxprune.evaluating import evaluating
from fxprune.passes.affine import AffineLayer, Norm, affine_layers
from fxprune.passes.finite import NotFiniteError
from fxprune.passes.least_squares import RIDGES, Correction, Moments, added, choose
from fxprune.passes.lockstep import Lockstep
from fxprune.passes.normed import follow_input
from fxprune.passes.stream import Stream, find_stream
from fxprune.passes.verify import full_precision
from fxprune.program import Program
from fxprune.propagate import Propagation

NEGLIGIBLE = 1e-10
"""Relative squared error below which a layer's outputs are what they were."""
ROWS = 65536
"""Positions of each layer that are looked at, at least; wider layers look at 16 for each input."""
HELD_OUT = 5
"""Every how many-th position or batch is held out."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of one layer.

    Attributes:
        layer: its name.
        before: relative squared error of its outputs on held-out data, with the weights as cut.
        after: the same with the weights that it has now, found without that data.
        ridge: relative to the mean diagonal; infinite where only means were compensated, None where nothing was changed.
    """

    layer: str
    before: float
    after: float
    ridge: float | None


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What became of all layers whose inputs had changed, in graph order."""

    repairs: tuple[Repair, ...]

    @property
    def changed(self) -> tuple[Repair, ...]:
        """Layers whose weights were changed."""
        return tuple(each for each in self.repairs if each.ridge is not None)

    @property
    def before(self) -> float:
        """Mean relative error of the layers as cut."""
        return sum(each.before for each in self.repairs) / max(len(self.repairs), 1)

    @property
    def after(self) -> float:
        """Mean relative error of the layers as they are now."""
        return sum(each.after for each in self.repairs) / max(len(self.repairs), 1)

    @property
    def summary(self) -> str:
        """One line."""
        return (
            f"reconstruction: {len(self.changed)} of {len(self.repairs)} layers repaired, mean relative error of their "
            f"outputs {self.before:.3g} before, {self.after:.3g} after (held-out calibration data)"
        )

    def __str__(self) -> str:
        """The summary, and one line for each layer."""
        lines = [
            f"  {each.layer}: {each.before:.3g} -> {each.after:.3g}"
            + ("" if each.ridge is None else f" (ridge {each.ridge:g})")
            for each in self.repairs
        ]
        return "\n".join([self.summary, *lines])


def reconstruct(
    analysis: Analysis,
    cut: Cut,
    slim: GraphModule,
    batches: Sequence[Batch],
    *,
    ridge: float | None = None,
    whole: Program | None = None,
    dropped: Sequence[Block] = (),
    feedback: bool = True,
    rows: int = ROWS,
    seed: int = 0,
) -> Reconstruction:
    """Repair the layers of a slim model in place.

    Args:
        analysis: of the original, which is not changed.
        cut: what the slim model kept of it.
        slim: the emitted module, on the device of the batches; its parameters (and running means of BatchNorm layers
            after convolutions without a bias) are changed, its training flags and `requires_grad` are not.
        batches: calibration inputs; values of both models that are still needed are held in memory for all of them.
        ridge: relative to the mean diagonal of a layer's Gram matrix; None to choose it for each layer.
        whole: the original with the blocks that `analysis` lacks; None where it lacks none.
        dropped: these blocks.
        feedback: let layers that write into a residual stream correct what the stream lacks.
        rows: positions of each layer that are looked at, at least.
        seed: for the choice of positions.

    Returns:
        What became of each layer.

    Raises:
        InputError: there is no batch.
        NotFiniteError: what a layer sees or has to give is not finite.
        VerificationError: a repaired layer holds values that are not finite.
    """
    if not batches:
        msg = "reconstruction needs calibration data, and there is no batch"
        raise InputError(msg)
    own = list(mine(enumerate(batches)))
    work = _Work(analysis, cut, slim, ridge, feedback, rows, seed, tuple(number for number, _ in own), len(batches))
    layers = {layer.node: layer for layer in affine_layers(analysis.program)}
    repairs: list[Repair] = []
    with torch.no_grad(), evaluating(slim), full_precision():
        pair = Lockstep((whole or analysis.program).graph_module, slim, [batch for _, batch in own], dropped)
        for origin, node in pair:
            if origin in layers and (found := work.repair(layers[origin], node, pair)) is not None:
                repairs.append(found)
                if found.ridge is not None:
                    pair.slim.again(node)
            elif follow_input(origin, node, slim, pair, cut, analysis):
                pair.slim.again(node)
    return Reconstruction(tuple(repairs))


@dataclass(frozen=True, slots=True)
class _Aim:
    """What a stream ought to be, by nodes of the original.

    Attributes:
        stream: where the layer writes into it, in the graph that the slim one was emitted from.
        total: the sum.
        partner: the other summand; behind a dropped block it is what the block put out.
        goal: what all readers of the slim sum read in the original, if that is what a dropped block put out.
    """

    stream: Stream
    total: Node
    partner: Node
    goal: Node | None

    def beside(self, original: Mapping[Node, Tensor]) -> Tensor:
        """What ought to stand beside the layer's outputs in the sum, where they are the original's."""
        partner = original[self.partner]
        return partner if self.goal is None else partner + original[self.goal] - original[self.total]


@dataclass(frozen=True, slots=True)
class _Work:
    """What all repairs share.

    Attributes:
        numbers: positions of this process's batches among all.
        batches: number of all batches.
    """

    analysis: Analysis
    cut: Cut
    slim: GraphModule
    ridge: float | None
    feedback: bool
    rows: int
    seed: int
    numbers: tuple[int, ...]
    batches: int

    @property
    def propagation(self) -> Propagation:
        return self.analysis.propagation

    def repair(self, layer: AffineLayer, node: Node, pair: Lockstep) -> Repair | None:
        """Repair one layer; None where its outputs are what they were."""
        fit, held = self._moments(layer, node, pair, self._aim(layer, pair))
        before, whole = held.error(), fit + held
        if not math.isfinite(whole.error()):
            msg = (
                f"what the original computes at {layer.name!r}, or what the repair of it is given, is not finite; with "
                "reconstruct=False weights stay as cut"
            )
            raise NotFiniteError(msg)
        if whole.error() < NEGLIGIBLE:
            return None
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        weight = self.slim.get_parameter(layer.weight)
        own = layer.matrix(weight.detach(), len(fit.gram))
        correction, after = choose(fit, held, ridges, own, free_mean=layer.free_mean)
        if correction is not None:
            self._apply(layer, correction, whole)
        return Repair(layer.name, before, after, None if correction is None else correction.ridge)

    def _aim(self, layer: AffineLayer, pair: Lockstep) -> _Aim | None:
        """What the stream that a layer writes into ought to be; None where it writes into none."""
        stream = find_stream(layer, self.analysis.program, self.slim) if self.feedback else None
        if stream is None:
            return None
        total = pair.twin(stream.total)
        partner: Node = total.args[stream.place]  # type: ignore[assignment]
        if not pair.is_earlier(partner, pair.twin(layer.node)):
            return None
        return _Aim(stream, total, partner, pair.stand_in(stream.total))

    def _moments(self, layer: AffineLayer, node: Node, pair: Lockstep, aim: _Aim | None) -> tuple[Moments, Moments]:
        """Moments of the data to fit and of the held-out data."""
        weight = self.slim.get_parameter(layer.weight)
        counts = [layer.positions(values[node]) for values in pair.slim.values]
        total = sum(together(lambda: sum(counts)))
        share = min(1.0, max(self.rows, 16 * weight[0].numel()) / total)

        def own() -> tuple[Moments | None, Moments | None]:
            fit: Moments | None = None
            held: Moments | None = None
            for at, number in enumerate(self.numbers):
                chosen = self._positions(counts[at], share, number)
                parts = self._portion(layer, node, pair, aim, at, chosen)
                is_held = self._held_out(len(chosen), number, chosen.device)
                fit, held = _add(fit, parts, ~is_held), _add(held, parts, is_held)
            return fit, held

        return added(own, weight.device)

    def _positions(self, count: int, share: float, number: int) -> Tensor:
        """A share of all positions of a batch, in random order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(count, generator=generator)[: max(round(share * count), min(count, HELD_OUT))]

    def _held_out(self, positions: int, number: int, device: torch.device) -> Tensor:
        """Which positions of a batch are held out: whole batches where there are enough."""
        if self.batches >= HELD_OUT:
            return torch.full((positions,), number % HELD_OUT == HELD_OUT - 1, device=device)
        return torch.arange(positions, device=device) % HELD_OUT == HELD_OUT - 1

    def _portion(
        self, layer: AffineLayer, node: Node, pair: Lockstep, aim: _Aim | None, number: int, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, residuals and targets of one batch."""
        slim, original = pair.slim.values[number], pair.original.values[number]
        x, y = slim[pair.copies[layer.source]], slim[node]
        axes = self.propagation.values[layer.node]
        target = self.cut.slice(original[pair.twin(layer.node)], axes)
        if aim is not None:
            partner = aim.stream.partner
            kept = self.cut.slice(aim.beside(original), self.propagation.values[partner])
            target = target + aim.stream.undo(kept - slim[pair.copies[partner]], target.shape)
        weight = self.slim.get_parameter(layer.weight)
        groups, chosen = layer.groups(x, weight), chosen.to(y.device)
        rows = layer.rows(x, y, weight, chosen)
        targets = layer.outputs(target, groups, chosen)
        return rows, targets.double() - layer.outputs(y, groups, chosen).double(), targets

    def _apply(self, layer: AffineLayer, correction: Correction, moments: Moments) -> None:
        weight = self.slim.get_parameter(layer.weight)
        change = layer.weight_of(correction.matrix, weight.shape)
        _set(layer, weight, weight.double() + change)
        constant = correction.constant.flatten()
        if layer.bias is not None:
            bias = self.slim.get_parameter(layer.bias)
            _set(layer, bias, bias.double() + constant)
        elif layer.shift is not None:
            mean = self.slim.get_buffer(layer.shift)
            _set(layer, mean, mean.double() - constant)
        if layer.norm is not None and (layer.bias is not None or not layer.biased):
            now = layer.matrix(weight.double(), len(moments.gram))
            self._rescale(layer, layer.norm, moments.shortfall(now).flatten())

    def _rescale(self, layer: AffineLayer, norm: Norm, factor: Tensor) -> None:
        """Make each output's weights longer, and give the BatchNorm behind them the statistics that undo it."""
        weight = self.slim.get_parameter(layer.weight)
        shape = (1, -1) if layer.transposed else (-1, *(1 for _ in weight.shape[1:]))
        _set(layer, weight, weight.double() * factor.reshape(shape))
        if layer.bias is not None:
            bias = self.slim.get_parameter(layer.bias)
            _set(layer, bias, bias.double() * factor)
        mean, variance = self.slim.get_buffer(norm.mean), self.slim.get_buffer(norm.variance)
        _set(layer, mean, mean.double() * factor)
        _set(layer, variance, (factor.square() * (variance.double() + norm.eps) - norm.eps).clamp_min(0))


def _set(layer: AffineLayer, tensor: Tensor, value: Tensor) -> None:
    stored = value.to(tensor.dtype)
    if not stored.isfinite().all():
        msg = (
            f"the repair of {layer.name!r} gave values that are not finite: the calibration data, or the model's outputs on "
            "it, are not finite or too large. Look at the data, or pass reconstruct=False"
        )
        raise VerificationError(msg)
    tensor.copy_(stored)


def _add(total: Moments | None, parts: tuple[Any, Any, Any], chosen: Tensor) -> Moments:
    found = Moments.of(*(part[:, chosen] for part in parts))
    return found if total is None else total + found
