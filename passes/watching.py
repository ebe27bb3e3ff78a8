"""One forward pass over a batch that measures values on its way: at taps, and of blocks what enters against what leaves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_map

from fxprune.analysis import Analysis
from fxprune.axes import Variable, leaves
from fxprune.batches import Batch
from fxprune.blocks import Block
from fxprune.passes.lockstep import flat_inputs
from fxprune.passes.masked import private
from fxprune.passes.samples import Given, rows_of
from fxprune.rules.elementwise import TensorAxes
from fxprune.weights import Weights

Measure = Callable[[Tensor, Given], Mapping[str, Tensor]]


class Watching(Interpreter):
    """Runs the captured graph; `measured` holds what the last run found."""

    def __init__(
        self,
        analysis: Analysis,
        taps: Mapping[Node, Sequence[Measure]],
        blocks: Sequence[Block],
        weights: Weights | None = None,
    ) -> None:
        """`taps`: what to measure at which values; `weights`: where parameters come from, if not from the model."""
        super().__init__(analysis.program.graph_module)
        self.analysis, self.taps, self.weights = analysis, taps, weights
        self.leaving: dict[Node, list[Block]] = defaultdict(list)
        for block in blocks:
            self.leaving[block.output].append(block)
        self.entering = Counter(block.input for block in blocks)
        self.known = {v for axes in analysis.propagation.tensors.values() for axis in axes for v in leaves(axis)}
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self.given = Given()
        self.measured: dict[str, Tensor] = {}
        self.streams: dict[Node, Tensor] = {}
        self.awaited = Counter(self.entering)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """What the taps find in one batch: on the CPU."""
        self.begin()
        with torch.no_grad():
            self.run(*flat_inputs(batch), enable_io_processing=False)
        return {name: value.cpu() for name, value in self.measured.items()}

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the original; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target) if self.weights is None else self.weights.attribute(target))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operation; where parameters are fetched, what the graph makes on the CPU is made beside them."""
        if self.weights is not None:
            args, kwargs = tree_map(partial(_beside, self.weights.device), (args, kwargs))
        return super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        """Run a node, and measure what was asked for."""
        value = super().run_node(n)
        if n.op == "placeholder":
            self.given.add(n, value, self.analysis.propagation)
        for measure in self.taps.get(n, ()):
            self.measured.update(measure(value, self.given))
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


def _beside(device: torch.device, argument: Any) -> Any:
    return device if isinstance(argument, torch.device) and argument.type == "cpu" else argument


def feature_dims(axes: TensorAxes, known: AbstractSet[Variable]) -> list[int]:
    """Dimensions of a value whose indices parameters have too (`known`); the last one where there is none."""
    found = [dim for dim, axis in enumerate(axes) if axis.size > 1 and not known.isdisjoint(leaves(axis))]
    return found or [len(axes) - 1]
