"""What whole experts of a mixture are worth: the norm of what they add to the stream, on the tokens that they are chosen for.

    S_e = mean over the tokens x that choose e of g_e(x) ||f_e(x)||

with g the router's weight and f the expert's output. It is what the layer's output moves by, at most, for a token that loses
the expert. Rows are sorted by experts there; the offsets of the product in groups tell whose they are, and the order of the
sort whose tokens, so that padding counts for nothing.

Source: Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (arXiv 2510.13999), the
router-weighted activation of experts. Minitron ranks experts by the norm of their outputs alone.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.passes.samples import Given
from fxprune.rules.elementwise import TensorAxes
from fxprune.rules.routing import SORTS, chosen_by, is_grouped, offsets_of

if TYPE_CHECKING:
    from fxprune.analysis import Analysis

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Experts:
    """Where the outputs of a layer's experts are to be seen.

    Attributes:
        group: name of the dependency group.
        output: rows of what experts put out, times the router's weights, sorted by expert.
        offsets: where the rows of each expert end.
        order: position that each row had before they were sorted: token * chosen + choice.
        chosen: number of experts for each token.
    """

    group: str
    output: Node
    offsets: Node
    order: Node
    chosen: int

    def measure(self, rows: Tensor, offsets: Tensor, order: Tensor, given: Given) -> dict[str, Tensor]:
        """Sums of the norms of each expert's rows, and their number: float64 [experts]."""
        experts = torch.searchsorted(offsets.long(), torch.arange(len(rows), device=rows.device), right=True)
        norms = torch.linalg.vector_norm(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)
        weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        masks = [each for each in given.masks.values() if each.numel() * self.chosen == len(rows)]
        if len(masks) == 1:
            weights = masks[0].to(rows.device).flatten()[order // self.chosen].double()
        norms = torch.where(weights > 0, norms, norms.new_zeros(()))  # padding may hold anything
        zeros = weights.new_zeros(len(offsets))
        return {
            sum_of(self.group): zeros.index_add(0, experts, norms.double()),
            count_of(self.group): zeros.index_add(0, experts, weights),
        }


def sum_of(group: str) -> str:
    """Name of what is measured of a group's experts."""
    return f"norms of experts {group}"


def count_of(group: str) -> str:
    """Name of the number of tokens that chose each."""
    return f"tokens of experts {group}"


def expert_groups(analysis: Analysis) -> frozenset[str]:
    """Names of the groups whose indices are experts that a router chooses."""
    return frozenset(group.name for group in analysis.groups if group.variable in analysis.propagation.needed)


def find_experts(analysis: Analysis) -> dict[str, Experts]:
    """Group name -> where to look at its experts."""
    names = {group.variable: group.name for group in analysis.groups if group.outer is None}
    found: dict[str, Experts] = {}
    for node in analysis.program.nodes:  # of several products of the same experts the last one puts out
        offsets = offsets_of(node) if is_grouped(node) else None
        axes = None if offsets is None else analysis.propagation.values[offsets]
        if offsets is None or not isinstance(axes, TensorAxes) or axes[0] not in names:
            continue
        name = names[axes[0]]
        own = _experts(name, node, offsets)
        if own is not None:
            found[name] = own
    return found


def _experts(name: str, node: Node, offsets: Node) -> Experts | None:
    """Where experts put out; None where the rows' order cannot be told."""
    numbers = next(iter(offsets.all_input_nodes[0].all_input_nodes))  # what was counted
    order, choice = _order(numbers), chosen_by(numbers)
    if order is None or choice is None:
        return None
    chosen = choice.args[1]
    assert isinstance(chosen, int)
    users = list(node.users)
    weighted = len(users) == 1 and users[0].target is aten.mul.Tensor
    return Experts(name, users[0] if weighted else node, offsets, order, chosen)


def _order(numbers: Node) -> Node | None:
    """Positions before the sort that the counted numbers come from."""
    while numbers.op == "call_function" and numbers.target not in SORTS:
        numbers = numbers.all_input_nodes[0]
    return next((user for user in numbers.users if user.target is operator.getitem and user.args[1] == 1), None)
