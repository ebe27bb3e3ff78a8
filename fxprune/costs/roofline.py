"""How long hardware takes at least, by arithmetic or by memory: a roofline, as a function of the groups' widths.

A product (convolution, linear layer, attention) takes the longer of the time for its FLOPs and the time to read its inputs and
write its results; everything else takes the latter:

    time(w) = sum over operations of  max(FLOPs(w) / INTENSITY, elements that it reads and writes (w))

in units of the time to move one element. So a convolution of 256 by 64 channels with kernels of one pixel costs what its wide
side holds, and cutting its FLOPs by the narrow side gains little. Views move nothing. Weights are left out: they are read once
however large a batch is, and the rest grows with it, so that the time of two plans compares alike at any batch size.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch._ops import OpOverload
from torch.fx import Node

from fxprune.costs.columns import Columns, ColumnTable
from fxprune.costs.costs import Costs
from fxprune.costs.formulas import node_flops
from fxprune.costs.memory import storage_key
from fxprune.costs.polynomial import Monomial, Table, collect, tabulate, volume
from fxprune.costs.sizes import Sizes
from fxprune.groups import Group
from fxprune.program import Program
from fxprune.propagate import Propagation

ROOFLINE = "roofline"
INTENSITY = 400.0
"""FLOPs in the time of moving one element of 2 bytes, or of 4 at half the speed: GPUs from T4 to H200 do 300 to 800."""
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class RooflineCosts:
    """Costs with `roofline` among the metrics, in elements moved or their like.

    Attributes:
        costs: all other metrics.
        columns: what the polynomials are made of.
        table: first all that only moves elements, then for each product its FLOPs over the intensity, and its elements.
    """

    costs: Costs
    columns: ColumnTable
    table: Table

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names, in the order of the columns."""
        return self.costs.groups

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Original sizes, `[groups]`."""
        return self.costs.sizes

    def evaluate(
        self, widths: NDArray[np.int64], metrics: Sequence[str] = ("flops", ROOFLINE), /
    ) -> Mapping[str, NDArray[np.float64]]:
        """Cost of each row of `widths`, `[candidates, groups]`, for each metric."""
        others = [metric for metric in metrics if metric != ROOFLINE]
        found: dict[str, NDArray[np.float64]] = dict(self.costs.evaluate(widths, others)) if others else {}
        if ROOFLINE in metrics:
            found[ROOFLINE] = self._times(np.asarray(widths))
        return found

    def _times(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        step = max(_CHUNK // max(self.table.terms, 1), 64)
        parts = [widths[start : start + step] for start in range(0, len(widths), step)]
        return np.concatenate([self._time(part) for part in parts]) if parts else np.zeros(0)

    def _time(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        moved, *products = self.table.evaluate(self.columns.evaluate(widths))
        total: NDArray[np.float64] = moved
        for arithmetic, memory in zip(products[::2], products[1::2], strict=True):
            total = total + np.maximum(arithmetic, memory)
        return total


def with_roofline(costs: Costs, program: Program, propagation: Propagation, groups: tuple[Group, ...]) -> RooflineCosts:
    """Costs of a program, and its roofline."""
    columns = Columns([group.variable for group in groups])
    sizes = Sizes(program, columns, propagation)
    moving: list[Monomial] = []
    products: list[Mapping[tuple[int, ...], float]] = []
    for node in program.nodes:
        elements = list(_moved(node, sizes)) if node.op == "call_function" else []
        flops = node_flops(node, sizes) if elements else []
        if flops:
            products += [collect(each * (1 / INTENSITY) for each in flops), collect(elements)]
        else:
            moving += elements
    table = tabulate([collect(moving), *products], columns.unit)
    return RooflineCosts(costs, columns.compile(), table)


def _moved(node: Node, sizes: Sizes) -> Iterator[Monomial]:
    """Elements of each activation that an operation reads or writes; nothing for a view."""
    read = [each for each in node.all_input_nodes if each.op != "get_attr" and _tensors(each)]
    inputs = {storage_key(value) for each in node.all_input_nodes for value in _tensors(each)}
    changes = isinstance(node.target, OpOverload) and node.target._schema.is_mutable
    if not changes and all(storage_key(value) in inputs for value in _tensors(node)):
        return
    for each in (node, *read):
        yield from (volume(shape) for shape in sizes.results(each) if shape is not None)


def _tensors(node: Node) -> list[torch.Tensor]:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else (value,)
    return [each for each in values if isinstance(each, torch.Tensor)]
