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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from fxprune.aliasing import is_mutating
from fxprune.costs.columns import Columns, ColumnTable
from fxprune.costs.formulas import node_flops
from fxprune.costs.memory import results_of, storage_key
from fxprune.costs.polynomial import Monomial, Table, chunks, collect, tabulate, volume
from fxprune.costs.sizes import Sizes
from fxprune.groups import Group
from fxprune.program import Program
from fxprune.propagate import Propagation

ROOFLINE = "roofline"
INTENSITY = 400.0
"""FLOPs in the time of moving one element of 2 bytes, or of 4 at half the speed: GPUs from T4 to H200 do 300 to 800."""


@dataclass(frozen=True, slots=True, eq=False)
class Roofline:
    """How long candidates take at least, in elements moved or their like.

    Attributes:
        columns: what the polynomials are made of.
        table: first all that only moves elements, then for each product its FLOPs over the intensity, and its elements.
    """

    columns: ColumnTable
    table: Table

    def times(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Time `[candidates]` at widths `[candidates, groups]`."""
        found = np.empty(len(widths))
        for part in chunks(len(widths), self.table.terms):
            moved, *products = self.table.evaluate(self.columns.evaluate(widths[part]))
            found[part] = moved
            for arithmetic, memory in zip(products[::2], products[1::2], strict=True):
                found[part] += np.maximum(arithmetic, memory)
        return found


def find_roofline(program: Program, propagation: Propagation, groups: tuple[Group, ...]) -> Roofline:
    """Read the roofline of a program off its axes."""
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
    return Roofline(columns.compile(), tabulate([collect(moving), *products], columns.unit))


def _moved(node: Node, sizes: Sizes) -> Iterator[Monomial]:
    """Elements of each activation that an operation reads or writes; nothing for a view."""
    inputs = {storage_key(value) for each in node.all_input_nodes for _, value in results_of(each)}
    if not is_mutating(node) and all(storage_key(value) in inputs for _, value in results_of(node)):
        return
    for each in (node, *(source for source in node.all_input_nodes if source.op != "get_attr")):
        yield from (volume(shape) for shape in sizes.results(each) if shape is not None)
