"""What a model costs at any widths of its groups: polynomials, read once off the analysed graph and evaluated in bulk.

- `flops`: what `torch.utils.flop_counter.FlopCounterMode` counts on the emitted model (`fxprune.costs.products`): one
  multiply or one add is one FLOP, twice the MACs that some tools report. Attention is counted by torch's formula for
  the CUDA kernels; the fused CPU kernel is invisible to the counter, so compare under
  `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
- `params`: number of parameter elements, tied ones once, those that the captured forward does not reach included.
- `memory`: bytes of all weights plus the peak of the activations (`fxprune.costs.memory`); where a key/value cache is to be
  counted (`fxprune.kv_cache`), bytes of all weights and of that cache.

All at the sizes of the example inputs, their batch size included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fxprune.costs.columns import Columns, ColumnTable
from fxprune.costs.formulas import node_flops
from fxprune.costs.memory import find_storages, tabulate_live_bytes
from fxprune.costs.polynomial import Monomial, Table, chunks, collect, tabulate, volume
from fxprune.costs.sizes import Sizes
from fxprune.errors import InputError
from fxprune.groups import Group
from fxprune.program import Program
from fxprune.propagate import Propagation


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """FLOPs, parameters and memory as functions of the groups' widths.

    Attributes:
        groups: names of the groups, in the order of the columns of `widths`.
        sizes: original sizes [groups].
        columns: what all polynomials are made of.
        metrics: for each metric the tables whose largest values are added up.
    """

    groups: tuple[str, ...]
    sizes: NDArray[np.int64]
    columns: ColumnTable
    metrics: Mapping[str, tuple[Table, ...]]

    def evaluate(
        self, widths: NDArray[np.int64], metrics: Sequence[str] = ("flops", "params", "memory")
    ) -> dict[str, NDArray[np.float64]]:
        """Costs of many candidates at once.

        Args:
            widths: number of kept indices of every group [candidates, groups]; of a nested group, per outer index.
            metrics: which costs to compute, of `flops`, `params` and `memory` (bytes).

        Returns:
            Metric -> costs [candidates].

        Raises:
            InputError: `widths` has another shape, or a metric is unknown.
        """
        widths = np.asarray(widths)
        self._check(widths, metrics)
        result = {metric: np.empty(len(widths)) for metric in metrics}
        terms = max((table.terms for metric in metrics for table in self.metrics[metric]), default=1)
        for part in chunks(len(widths), terms):
            columns = self.columns.evaluate(widths[part])
            for metric in metrics:
                tables = self.metrics[metric]
                result[metric][part] = sum(table.evaluate(columns).max(axis=0) for table in tables)
        return result

    @property
    def original(self) -> dict[str, float]:
        """Costs with nothing cut."""
        return {metric: float(values[0]) for metric, values in self.evaluate(self.sizes[None]).items()}

    def _check(self, widths: NDArray[np.int64], metrics: Sequence[str]) -> None:
        if widths.ndim != 2 or widths.shape[1] != len(self.groups):
            msg = f"widths must be [candidates, {len(self.groups)} groups], one row each, not {list(widths.shape)}"
            raise InputError(msg)
        unknown = [metric for metric in metrics if metric not in self.metrics]
        if unknown:
            msg = f"metrics={list(metrics)!r} holds {unknown[0]!r}; costs are known for {', '.join(self.metrics)}"
            raise InputError(msg)


def build_costs(program: Program, propagation: Propagation | None, groups: tuple[Group, ...] = ()) -> Costs:
    """Read the costs of a program off its axes.

    Args:
        program: the captured model.
        propagation: axes of all its values and tensors; None where there are no groups.
        groups: what can be cut; all other sizes are constants.
    """
    assert propagation is not None or not groups, "groups without the axes that hold them"
    columns = Columns([group.variable for group in groups])
    sizes = Sizes(program, columns, propagation)
    flops = collect(term for node in program.graph_module.graph.nodes for term in node_flops(node, sizes))
    weights = dict(weights_of(program))
    elements = {name: volume(sizes.tensor(name, tensor)) for name, tensor in weights.items()}
    bytes_ = collect(count * weights[name].dtype.itemsize for name, count in elements.items())
    params = collect(
        count for name, count in elements.items() if name in program.tensors and name not in program.buffers
    )
    cached = None if program.cached is None else collect(_cached_bytes(program, program.cached, sizes))
    held = (
        tabulate_live_bytes(find_storages(program, sizes), columns.unit)
        if cached is None
        else tabulate([cached], columns.unit)
    )
    metrics = {
        "flops": (tabulate([flops], columns.unit),),
        "params": (tabulate([params], columns.unit),),
        "memory": (tabulate([bytes_], columns.unit), held),
    }
    widths = np.array([group.size for group in groups], dtype=np.int64)
    return Costs(tuple(group.name for group in groups), widths, columns.compile(), metrics)


def _cached_bytes(program: Program, cached: Mapping[str, int], sizes: Sizes) -> Iterator[Monomial]:
    """What a key/value cache holds of each value, in proportion to the value's elements."""
    for node in program.nodes:
        if node.name in cached:
            (shape,) = sizes.results(node)
            assert shape is not None
            original = prod(sizes.real(size) for size in node.meta["val"].shape)
            size = volume(shape)
            whole, rest = divmod(size.coefficient * cached[node.name], original)
            yield Monomial(whole if not rest else size.coefficient * cached[node.name] / original, size.columns)


def weights_of(program: Program) -> Iterator[tuple[str, Tensor]]:
    """All parameters, buffers and constants with their names, tied ones once."""
    for name, tensor in (*program.tensors.items(), *program.constants.items()):
        # A region with a gradient mode of its own is a constant too, but a graph and no tensor.
        if name not in program.aliases and isinstance(tensor, Tensor):
            yield name, tensor
