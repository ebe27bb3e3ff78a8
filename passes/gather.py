"""What layers of the original see: Gram matrices of their inputs, in one pass over the data.

Layers that read the same value in the same way (queries, keys and values of one attention) share one matrix. Of wide inputs
and large images a random share of the positions is looked at. For products of two activations, which have no weights,
the energies of each group's indices in both operands are taken instead: what index i adds to sum_i q_i k_i has, with
independent signs, the energy E[q_i^2] E[k_i^2].

Several processes each look at their share of the batches, and add what they found: the sums of one process, up to rounding in
float64.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from fxprune.axes import Axes
from fxprune.batches import Batch
from fxprune.distributed import mine, summed, together, world
from fxprune.groups import Group
from fxprune.indexing import sum_by_index
from fxprune.passes.affine import AffineLayer
from fxprune.passes.lockstep import flat_inputs
from fxprune.passes.masked import private
from fxprune.program import Program


@dataclass(slots=True)
class Inputs:
    """Second moments of a layer's rows: float64, one set for each group of the layer.

    Attributes:
        count: number of rows.
        gram: sum of a a^T, [groups, d, d].
        total: sum of a, [groups, d].
    """

    count: int
    gram: Tensor
    total: Tensor

    def add(self, rows: Tensor) -> None:
        """Take rows [groups, n, d] in."""
        rows = rows.double()
        self.count += rows.shape[1]
        self.gram += rows.mT @ rows
        self.total += rows.sum(1)

    @property
    def mean(self) -> Tensor:
        """[groups, d]."""
        return self.total / max(self.count, 1)

    def covariance(self, *, free_mean: bool) -> Tensor:
        """Mean of a a^T, around the mean where a constant is free: [groups, d, d]."""
        second = self.gram / max(self.count, 1)
        return second - self.mean[:, :, None] * self.mean[:, None, :] if free_mean else second


@dataclass(frozen=True, slots=True)
class Product:
    """A product of two activations that sums over a group's indices: the operands that hold them, with their axes."""

    group: Group
    operands: tuple[tuple[Node, Axes], ...]


class Gatherer(Interpreter):
    """Runs the captured graph and takes in what layers and products see."""

    def __init__(
        self, program: Program, layers: Sequence[AffineLayer], products: Sequence[Product], limit: int, seed: int
    ) -> None:
        """`limit`: positions of a layer that are looked at in each batch, at most."""
        super().__init__(program.graph_module)
        self.program = program
        self.layers: dict[Node, list[AffineLayer]] = {}
        views = {view_of(each, program): each for each in reversed(layers)}
        for layer in views.values():
            self.layers.setdefault(layer.node, []).append(layer)
        self.views = tuple(views)
        self.products = products
        self.limit = limit
        self.seed = seed
        self.generator = torch.Generator()
        self.inputs: dict[Hashable, Inputs] = {}
        self.energies: dict[tuple[str, Node], Tensor] = {}

    def look_at(self, batch: Batch, number: int) -> None:
        """Run one batch; its number decides which positions are looked at, on whatever process."""
        self.generator.manual_seed(self.seed * 1_000_003 + number)
        self.run(*flat_inputs(batch), enable_io_processing=False)

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the original; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target))

    def run_node(self, n: Node) -> Any:
        """Run a node; take in what was asked for."""
        value = super().run_node(n)
        for layer in self.layers.get(n, ()):
            self._take(layer, self.env[layer.source], value)
        for product in self.products:
            for operand, axes in product.operands:
                if operand is n:
                    key = (product.group.name, n)
                    found = sum_by_index(value.float().square(), axes, product.group)
                    self.energies[key] = self.energies[key] + found if key in self.energies else found
        return value

    def _take(self, layer: AffineLayer, x: Tensor, y: Tensor) -> None:
        weight, count = self.program.tensors[layer.weight], layer.positions(y)
        chosen = torch.randperm(count, generator=self.generator)[: self.limit]
        rows = layer.rows(x, y, weight, chosen.to(y.device))
        key, shape = view_of(layer, self.program), rows.shape
        if key not in self.inputs:
            zeros = rows.new_zeros(shape[0], shape[2], dtype=torch.float64)
            self.inputs[key] = Inputs(0, zeros[:, :, None] * zeros[:, None, :], zeros)
        self.inputs[key].add(rows)


def view_of(layer: AffineLayer, program: Program) -> Hashable:
    """The same for layers that read the same value in the same way."""
    weight = program.tensors[layer.weight]
    settings = tuple((name, str(value)) for name, value in layer.settings.items())
    return (layer.source, settings, tuple(weight.shape[1:]) if layer.spatial else ())


def gather(gatherer: Gatherer, batches: Sequence[Batch]) -> None:
    """Run all batches, each on one of the processes, and add what they found."""

    def look() -> None:
        with torch.no_grad():
            for number, batch in mine(enumerate(batches)):
                gatherer.look_at(batch, number)

    together(look)
    if world()[1] > 1:
        _merge(gatherer)


def _merge(gatherer: Gatherer) -> None:
    """The sums of all processes in place of this one's."""
    arrays: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for at, view in enumerate(gatherer.views):
        if (own := gatherer.inputs.get(view)) is not None:
            arrays[f"{at} count"] = np.array(float(own.count))
            arrays |= {f"{at} gram": own.gram.cpu().numpy(), f"{at} total": own.total.cpu().numpy()}
    operands = {(each.group.name, node) for each in gatherer.products for node, _ in each.operands}
    energies = {f"{name} in {node.name}": (name, node) for name, node in operands}
    arrays |= {
        name: gatherer.energies[key].double().cpu().numpy()
        for name, key in energies.items()
        if key in gatherer.energies
    }
    found = {name: torch.from_numpy(each) for name, each in summed(arrays).items()}
    device = next((each.device for each in gatherer.program.tensors.values()), torch.device("cpu"))
    for at, view in enumerate(gatherer.views):
        gram, total = (found[f"{at} {name}"].to(device) for name in ("gram", "total"))
        gatherer.inputs[view] = Inputs(int(found[f"{at} count"]), gram, total)
    gatherer.energies = {key: found[name].to(device) for name, key in energies.items()}


def product_energies(gatherer: Gatherer) -> Mapping[str, Tensor]:
    """Energy of each index of each group in its products: float64 [size] or [outer size, size]."""
    found: dict[str, Tensor] = {}
    for product in gatherer.products:
        name = product.group.name
        energy = torch.ones((), dtype=torch.float64)
        for operand, _ in product.operands:
            own = gatherer.energies[name, operand]
            energy = energy * own / own.mean().clamp_min(torch.finfo(torch.float32).tiny)
        found[name] = found[name] + energy if name in found else energy
    return found
