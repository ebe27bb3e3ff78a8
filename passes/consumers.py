"""Who consumes a dependency group's indices, and what losing some of them does to the consumers' weights.

A consumer with weights gives a problem of elimination: the Gram matrix of its inputs and its matrix, scaled by the energy of its
output, so that errors of different layers can be added. Layers that read the same inputs are one problem. Where a group is
cut, the consumers' best weights are those of least squares, at full size with zeros for what is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fxprune.axes import leaves
from fxprune.groups import Group, variables_of
from fxprune.indexing import index_of
from fxprune.passes.affine import AffineLayer, affine_layers
from fxprune.passes.elimination import Problem, corrected
from fxprune.passes.gather import Inputs, Product
from fxprune.rules import Role, find_rule
from fxprune.rules.elementwise import TensorAxes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fxprune.analysis import Analysis


@dataclass(frozen=True, slots=True)
class Seen:
    """A layer that consumes a group's indices, what it sees, and the index that each of its input channels belongs to."""

    layer: AffineLayer
    inputs: Inputs
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Consumers:
    """By group: the layers that consume it, or the energies of its indices in products of activations."""

    layers: Mapping[str, Sequence[Seen]]
    energies: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Matrices:
    """A layer as matrices, one for each of its groups: float64 [groups, d, o], [groups, d, d], labels [groups, d]."""

    matrix: Tensor
    covariance: Tensor
    labels: Tensor

    @classmethod
    def of(cls, analysis: Analysis, seen: Seen) -> Matrices:
        """Of the original's weights."""
        layer, weight = seen.layer, analysis.program.tensors[seen.layer.weight].detach()
        covariance = seen.inputs.covariance(free_mean=layer.free_mean)
        labels = layer.labels(seen.labels, len(covariance), weight).to(weight.device)
        return cls(layer.matrix(weight, len(covariance)).double(), covariance, labels)


def consumers_of(analysis: Analysis, group: Group) -> list[tuple[AffineLayer, Tensor]]:
    """Layers with weights that sum over a group's indices, each with the label of every input channel.

    Labels are the index, or `outer index * size + index` for a nested group, -1 where the group does not occur.
    """
    found: list[tuple[AffineLayer, Tensor]] = []
    for layer in affine_layers(analysis.program):
        mixed = [v for axis in analysis.propagation.mixed.get(layer.node, ()) for v in variables_of(axis)]
        axes = analysis.propagation.values.get(layer.source)
        if group.variable not in mixed or not isinstance(axes, TensorAxes):
            continue
        axis = axes[-layer.spatial - 1]
        labels = index_of(axis, group.variable)
        if group.outer is not None:
            if group.outer not in leaves(axis):
                continue
            outer = index_of(axis, group.outer)
            labels = torch.where((labels < 0) | (outer < 0), -1, outer * group.size + labels)
        found.append((layer, labels))
    return found


def products_of(analysis: Analysis, group: Group) -> list[Product]:
    """Products of two activations that sum over a group's indices."""
    found: list[Product] = []
    wanted = {group.variable} | ({group.outer} if group.outer is not None else set())
    for node, mixed in analysis.propagation.mixed.items():
        rule = find_rule(node.target)
        if rule is None or rule.role is not Role.CONTRACTION:
            continue
        if group.variable in {v for axis in mixed for v in variables_of(axis)}:
            operands = [(each, analysis.propagation.values.get(each)) for each in dict.fromkeys(node.all_input_nodes)]
            holding = tuple(
                (each, axes)
                for each, axes in operands
                if isinstance(axes, TensorAxes) and wanted <= {v for axis in axes for v in leaves(axis)}
            )
            if holding:
                found.append(Product(group, holding))
    return found


def problems(analysis: Analysis, seen: Sequence[Seen], ridge: float) -> list[Problem]:
    """One problem for each layer and each of its groups, errors relative to the energy of the layer's outputs."""
    made: dict[tuple[int, int, bool], Problem] = {}
    for each in seen:
        view = Matrices.of(analysis, each)
        energy = (view.matrix * (view.covariance @ view.matrix)).sum().clamp_min(torch.finfo(torch.float32).tiny)
        for at in range(len(view.matrix)):
            key, scaled = (id(each.inputs), at, each.layer.free_mean), view.matrix[at] / energy.sqrt()
            if key in made:
                made[key].weight = torch.cat([made[key].weight, scaled], dim=1)
            elif (view.labels[at] >= 0).any():
                made[key] = Problem.of(view.covariance[at], scaled, view.labels[at], ridge)
    return list(made.values())


def repaired(
    analysis: Analysis, group: Group, kept: NDArray[np.int64], seen: Sequence[Seen], ridge: float
) -> dict[str, Tensor]:
    """Full-size parameters of a group's consumers that make the best of what is kept: [rows, k] indices."""
    stays = torch.zeros(1 if group.outer is None else group.outer.size, group.size, dtype=torch.bool)
    stays.scatter_(1, torch.from_numpy(kept), value=True)
    found: dict[str, Tensor] = {}
    for each in seen:
        found.update(_repaired(analysis, each, stays.flatten(), ridge))
    return found


def _repaired(analysis: Analysis, each: Seen, stays: Tensor, ridge: float) -> dict[str, Tensor]:
    layer, tensors, view = each.layer, analysis.program.tensors, Matrices.of(analysis, each)
    alive = (view.labels < 0) | stays.to(view.labels.device)[view.labels.clamp_min(0)]
    made = torch.stack([corrected(view.covariance[at], view.matrix[at], alive[at], ridge) for at in range(len(alive))])
    found = {layer.weight: layer.weight_of(made, tensors[layer.weight].shape)}
    constant = (each.inputs.mean[:, None] @ (view.matrix - made)).flatten()
    if layer.bias is not None:
        found[layer.bias] = tensors[layer.bias].detach().double() + constant
    elif layer.shift is not None:
        found[layer.shift] = tensors[layer.shift].double() - constant
    return found
