"""Kinds: groups that are the same thing in each of a model's repeated blocks.

Configurations say one `intermediate_size` for all layers. Groups are alike, and so of one kind, when
1. they are of one size, and choose under outer groups of one size;
2. their indices stand in the same parameters: at the same place of the same axis of tensors whose names are equal, once
   the numbers of repeated modules are taken out (`model.layers.3.mlp.up_proj.weight` and `model.layers.7.mlp.up_proj.weight`).

What repeats is told by the modules: siblings of one class that have operations of their own inside, as for blocks that can
be dropped (`fxprune.blocks`). A group that runs through all blocks, such as the hidden features, is a kind by itself, and
where nothing repeats every group is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from fxprune.blocks import repeated_modules
from fxprune.groups import variables_of
from fxprune.patterns import fold_names
from fxprune.widths import Range

if TYPE_CHECKING:
    from fxprune.analysis import Analysis
    from fxprune.groups import Group


@dataclass(frozen=True, slots=True)
class Kind:
    """Groups that are alike.

    Attributes:
        name: what names all of its groups, `model.layers.{0..31}.mlp.gate_proj`.
        size: number of indices of each.
        groups: names of the groups, in the model's order.
    """

    name: str
    size: int
    groups: tuple[str, ...]

    def __str__(self) -> str:
        """One line: name, size, number of groups."""
        return f"{self.name}: {self.size}, {len(self.groups)} groups"


def find_kinds(analysis: Analysis) -> tuple[Kind, ...]:
    """All groups by kind, in the order of each kind's first group.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> from fxprune.kinds import find_kinds
        >>> layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        >>> model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> [str(kind) for kind in find_kinds(fxprune.analyze(model, torch.randn(1, 5, 16))) if kind.size == 32]
        ['layers.{0..2}.linear1: 32, 3 groups']
    """
    repeated = {path for path, _ in repeated_modules(analysis.program)}
    found: dict[Hashable, list[Group]] = {}
    for group in analysis.groups:
        found.setdefault(_signature(analysis, group, repeated), []).append(group)
    return tuple(_kind([group.name for group in groups], groups[0].size) for groups in found.values())


def template(name: str, repeated: Collection[str]) -> str:
    """A dotted name without the numbers of repeated modules: `layers.*.mlp.weight`.

    Example:
        >>> template("layers.3.experts.12.fc1", {"layers.3"})
        'layers.*.experts.12.fc1'
    """
    parts = name.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return ".".join(
        re.sub(r"\d+", "*", part) if path in repeated else part for part, path in zip(parts, paths, strict=True)
    )


def tied_ranges(ranges: Mapping[str, Range], kinds: Collection[Kind]) -> dict[str, Range]:
    """Ranges of widths that all groups of a kind can keep: multiples of every step, above every floor."""
    found = dict(ranges)
    for kind in kinds:
        own = [ranges[name] for name in kind.groups]
        tied = Range(lcm(*(each.step for each in own)), max(each.floor for each in own))
        found.update(dict.fromkeys(kind.groups, tied))
    return found


def _kind(names: list[str], size: int) -> Kind:
    return Kind(", ".join(fold_names(names)), size, tuple(names))


def _signature(analysis: Analysis, group: Group, repeated: Collection[str]) -> Hashable:
    """What groups of one kind have in common."""
    tensors, known = analysis.propagation.tensors, analysis.program.tensors
    places = Counter(
        (template(member.name, repeated), member.dim, at, len(variables))
        for member in group.members
        if member.name in known
        for variables in [variables_of(tensors[member.name][member.dim])]
        for at, variable in enumerate(variables)
        if variable is group.variable
    )
    return (group.size, None if group.outer is None else group.outer.size, frozenset(places))
