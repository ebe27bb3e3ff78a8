"""Minitron: activations of one forward pass say what is important. Needs data, neither labels nor gradients.

With x[t, e] the elements of a value at token t, those that belong to index i of a group are taken together,

    a_i(t) = sqrt(sum over the elements e of index i of x[t, e]^2),

which is |x| for a neuron and the norm of the output for a head. `sequence` aggregates over the tokens of a sample, `batch`
over samples:

    s_i(n) = mean over t of a_i(t)          A_i = sqrt(mean over n of s_i(n)^2)

Neurons of feed-forward layers and heads are looked at where the next layer reads them, hidden features at what each norm
puts out, the A of which are added up over the model (`fxprune.passes.taps`). Query heads are ranked within each key/value
group, which are ranked by all of their heads together. The importance is A^2, an energy, as the search expects. What lies
inside a head (dimensions of queries, keys and values) keeps its width, as in the paper: configurations can seldom say it. Indices
that nothing of all this reads (hidden states of recurrent layers) go by magnitude.

Whole experts are looked at where the router's weights have been applied (`fxprune.passes.experts`).

A block is worth its influence on the residual stream, 1 - mean over tokens of cos(x_in, x_out), or with
`depth="loss"` what the model loses without it: its perplexity on the data, or the drop of `score` where there is one.

Padding is left out of all of it where the inputs hold an `attention_mask`. Sums over data are float64 and do not depend on
how samples are put into batches.

Sources: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (arXiv 2407.14679),
equations 1 to 4; Sreenivas et al., arXiv 2408.11796; the same in ModelOpt's `mcore_minitron`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from fxprune.axes import Axes, leaves
from fxprune.errors import InputError
from fxprune.indexing import index_of
from fxprune.passes.experts import count_of, find_experts, sum_of
from fxprune.passes.finite import NotFiniteError
from fxprune.passes.magnitude import group_energies
from fxprune.passes.samples import Given, rows_of
from fxprune.passes.taps import find_taps, inside_heads, sorted_rows
from fxprune.passes.watching import Measure, Watching
from fxprune.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch.fx import Node

    from fxprune.blocks import Block
    from fxprune.groups import Group
    from fxprune.scorer import Context

AGGREGATIONS = ("mean", "l2")
DEPTHS = ("influence", "loss")


@dataclass(frozen=True, slots=True)
class Minitron:
    """Scores by activations; needs `data`.

    Attributes:
        sequence: over the tokens of a sample: "mean" or "l2" (root of the sum of squares).
        batch: over samples: "l2" (root of the mean of squares) or "mean".
        heads: whether widths inside heads may be cut too.
        depth: importance of blocks: "influence" (in the same pass) or "loss" (one more evaluation for each block).
        max_batches: largest number of batches of `data` that are used (the paper: 1024 samples).
    """

    sequence: str = "mean"
    batch: str = "l2"
    heads: bool = False
    depth: str = "influence"
    max_batches: int = 1024
    name: str = "minitron"
    needs: frozenset[str] = field(default=frozenset({"data"}))
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse options that say nothing."""
        valid = {self.sequence, self.batch} <= set(AGGREGATIONS) and self.depth in DEPTHS and self.max_batches >= 1
        if not valid:
            msg = f"{self} needs sequence and batch in {AGGREGATIONS}, depth in {DEPTHS} and max_batches >= 1"
            raise InputError(msg)

    def score(self, context: Context) -> Scores:
        """Importance of every index of every group, and of every block."""
        analysis = context.analysis
        taps, blocks = find_taps(analysis), analysis.blocks
        experts = find_experts(analysis)
        watching = Watching(analysis, self._measures(context, taps), blocks, context.weights, experts.values())
        sums, count = context.accumulate("activations", watching.measure, "activations", self.max_batches)
        importance = {group.name: self._importance(context, group, taps[group.name], sums) for group in context.groups}
        return Scores(
            self.name,
            importance,
            effort={"batches": count},
            whole=frozenset() if self.heads else inside_heads(analysis),
            blocks=self._blocks(context, blocks, sums),
            search="uniform",
        )

    def _measures(self, context: Context, taps: Mapping[str, Sequence[Node]]) -> dict[Node, list[Measure]]:
        found: dict[Node, list[Measure]] = defaultdict(list)
        for group in context.groups:
            for node in taps[group.name]:
                axes = context.analysis.propagation.values[node]
                found[node].append(
                    partial(self._measure, place(axes, group, ordered=not sorted_rows(node)), key(group, node))
                )
        return found

    def _measure(self, at: Place, name: str, value: Tensor, given: Given) -> dict[str, Tensor]:
        """Sum over samples of what they have aggregated to, and the number of samples."""
        rows = rows_of(value, at.axes, at.held, given, known=at.ordered)
        weights = rows.weights()
        tokens = weights.sum(1)
        aggregated = self._over_tokens(at.by_index(rows.values), weights, tokens)[tokens > 0]
        total = aggregated.square().sum(0) if self.batch == "l2" else aggregated.sum(0)
        return {name: total, f"samples {name}": (tokens > 0).sum()[None].double()}

    def _over_tokens(self, energies: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        """What each sample's tokens come to: [samples, positions, indices] -> float64 [samples, indices]."""
        each = energies.sqrt() if self.sequence == "mean" else energies
        each = torch.where(weights[:, :, None] > 0, each, each.new_zeros(()))  # padding may hold anything
        total = each.sum(1, dtype=torch.float64)
        return total / tokens.clamp_min(1)[:, None] if self.sequence == "mean" else total.sqrt()

    def _importance(
        self, context: Context, group: Group, taps: Sequence[Node], sums: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        total = np.zeros(int(np.prod(group.shape)))
        if sum_of(group.name) in sums:
            total += sums[sum_of(group.name)] / np.maximum(sums[count_of(group.name)], 1.0)
        for node in taps:
            name = key(group, node)
            mean = sums[name] / max(float(sums[f"samples {name}"][0]), 1.0)
            total += np.sqrt(mean) if self.batch == "l2" else mean
        if not np.isfinite(total).all():
            raise NotFiniteError(f"activations of group {group.name!r} are not finite")
        found: NDArray[np.float64] = np.square(total).reshape(group.shape)
        return found if found.any() else group_energies(context, group)

    def _blocks(
        self, context: Context, blocks: Sequence[Block], sums: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, float]:
        if self.depth == "loss" and blocks:
            if context.weights is not None:
                msg = 'depth="loss" runs the model without each block, which weights= cannot do; take depth="influence"'
                raise InputError(msg)
            from fxprune.passes.removal import losses_without

            return losses_without(context, blocks, self.max_batches)
        return {block.name: influence(block, sums) for block in blocks}


def influences(context: Context, limit: int = 1024) -> dict[str, float]:
    """Influence of every block of the analysis, in one pass over the data."""
    blocks = context.analysis.blocks
    watching = Watching(context.analysis, {}, blocks)
    sums, _ = context.accumulate("influence of blocks", watching.measure, "influence of blocks", limit)
    return {block.name: influence(block, sums) for block in blocks}


def influence(block: Block, sums: Mapping[str, NDArray[np.float64]]) -> float:
    """1 - mean cosine of what enters and leaves a block, 0 at least."""
    tokens = float(sums[f"tokens {block.name}"][0])
    return max(1.0 - float(sums[f"cosine {block.name}"][0]) / max(tokens, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group's indices stand in a value.

    Attributes:
        axes: of the value.
        held: dimensions on which the indices, or those of the outer variable, lie.
        labels: index of each element of these dimensions, -1 where there is none: int64 [elements].
        count: number of indices, those under all outer indices together.
        ordered: whether rows follow the inputs' samples.
    """

    axes: Axes
    held: tuple[int, ...]
    labels: Tensor
    count: int
    ordered: bool = True

    def by_index(self, rows: Tensor) -> Tensor:
        """Energies [samples, positions, elements] summed by index: at least float32 [samples, positions, count]."""
        squares = rows.to(torch.promote_types(rows.dtype, torch.float32)).square()
        labels = self.labels.to(rows.device)
        if len(labels) == self.count and bool((labels == torch.arange(self.count, device=rows.device)).all()):
            return squares
        valid = labels >= 0
        return squares.new_zeros(*rows.shape[:2], self.count).index_add_(2, labels[valid], squares[:, :, valid])


def place(axes: Axes, group: Group, *, ordered: bool = True) -> Place:
    """Where a group's indices stand in a value with these axes; the outer variable has to stand there too."""
    variables = [group.variable] if group.outer is None else [group.outer, group.variable]
    held = tuple(dim for dim, axis in enumerate(axes) if any(each in leaves(axis) for each in variables))
    inner = _labels(axes, held, group.variable)
    if group.outer is None:
        return Place(axes, held, inner, group.size, ordered)
    outer = _labels(axes, held, group.outer)
    labels = torch.where((inner < 0) | (outer < 0), -1, outer * group.size + inner)
    return Place(axes, held, labels, group.outer.size * group.size, ordered)


def _labels(axes: Axes, held: Sequence[int], variable: object) -> Tensor:
    """Index of a variable at each element of the dimensions `held`, row-major."""
    found = torch.full([axes[dim].size for dim in held], -1)
    for at, dim in enumerate(held):
        shape = [1] * len(held)
        shape[at] = axes[dim].size
        own = index_of(axes[dim], variable).reshape(shape)  # type: ignore[arg-type]
        found = torch.maximum(found, own.expand_as(found))
    return found.flatten()


def key(group: Group, node: Node) -> str:
    """Name of what is measured of a group at a value."""
    return f"{node.name} {group.name}"
