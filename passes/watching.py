"""One forward pass over a batch that measures values on its way: at taps, of blocks what enters and leaves, of experts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.analysis import Analysis
from fxprune.axes import Variable, leaves
from fxprune.batches import Batch
from fxprune.blocks import Block
from fxprune.passes.experts import Experts
from fxprune.passes.original import Original
from fxprune.passes.samples import Given, rows_of
from fxprune.rules.elementwise import TensorAxes
from fxprune.weights import Weights

Measure = Callable[[Tensor, Given], Mapping[str, Tensor]]


class Watching(Original):
    """Runs the captured graph; `measured` holds what the last run found."""

    def __init__(
        self,
        analysis: Analysis,
        taps: Mapping[Node, Sequence[Measure]],
        blocks: Sequence[Block],
        weights: Weights | None = None,
        experts: Iterable[Experts] = (),
    ) -> None:
        """`taps`: what to measure at which values; `weights`: where parameters come from, if not from the model."""
        super().__init__(analysis.program, weights)
        self.analysis, self.taps = analysis, taps
        self.leaving: dict[Node, list[Block]] = defaultdict(list)
        for block in blocks:
            self.leaving[block.output].append(block)
        self.experts = {each.output: each for each in experts}
        self.routing = {node for each in self.experts.values() for node in (each.offsets, each.order)}
        self.entering = Counter(block.input for block in blocks)
        self.known = {v for axes in analysis.propagation.tensors.values() for axis in axes for v in leaves(axis)}
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self.given = Given()
        self.measured: dict[str, Tensor] = {}
        self.streams: dict[Node, Tensor] = {}
        self.routes: dict[Node, Tensor] = {}
        self.awaited = Counter(self.entering)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """What the taps find in one batch: on the CPU."""
        self.begin()
        self.go_through(batch)
        return {name: value.cpu() for name, value in self.measured.items()}

    def run_node(self, n: Node) -> Any:
        """Run a node, and measure what was asked for."""
        value = super().run_node(n)
        if n.op == "placeholder":
            self.given.add(n, value, self.analysis.propagation)
        for measure in self.taps.get(n, ()):
            self.measured.update(measure(value, self.given))
        if n in self.routing:
            self.routes[n] = value
        if n in self.experts:
            own = self.experts[n]
            routes = self.routes.pop(own.offsets), self.routes.pop(own.order)
            self.measured.update(own.measure(value, *routes, self.given))
        for block in self.leaving.get(n, ()):
            self.measured.update(self._similarity(block, value))
        if n in self.entering:
            self.streams[n] = value.clone()  # the stream may be written to in place
        return value

    def _similarity(self, block: Block, output: Tensor) -> dict[str, Tensor]:
        """Cosine of what enters and leaves a block, summed over positions, and the number of positions."""
        before = self.streams[block.input]
        self.awaited[block.input] -= 1
        if not self.awaited[block.input]:
            del self.streams[block.input]
        axes = self.analysis.propagation.values[block.output]
        assert isinstance(axes, TensorAxes), block.name
        held = feature_dims(axes, self.known)
        rows, former = rows_of(output, axes, held, self.given), rows_of(before, axes, held, self.given)
        weights = rows.weights()
        cosine = torch.nn.functional.cosine_similarity(former.values.double(), rows.values.double(), dim=-1)
        return {f"cosine {block.name}": (cosine * weights).sum()[None], f"tokens {block.name}": weights.sum()[None]}


def feature_dims(axes: TensorAxes, known: AbstractSet[Variable]) -> list[int]:
    """Dimensions of a value whose indices parameters have too (`known`); the last one where there is none."""
    found = [dim for dim, axis in enumerate(axes) if axis.size > 1 and not known.isdisjoint(leaves(axis))]
    return found or [len(axes) - 1]
