"""Widths that a model's configuration can say: which groups have to be cut together, and which not at all.

`from_pretrained` builds a model from its configuration, so a slim model that is to be loaded without fxprune may only have
widths that some configuration gives. A *move* makes a few of its fields smaller by one ratio: `intermediate_size` alone, or
`hidden_size` and `num_attention_heads` together, so that the width of a head stays. Moves are tried, the smallest first:

1. the class is built from the moved configuration on the meta device, and the sizes of its tensors are solved for the
   widths of the groups (`equations`); there may be none, because the move would make something wider, or cut the
   vocabulary;
2. the model is cut to these widths, once, and compared with what `from_pretrained` makes of the cut tensors (`reload`).
   Where the class computes a scale, a table of frequencies or a normaliser from the width, the two differ.

Groups that a move cuts are tied: their widths keep their proportions. What no move cuts is held, with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Interpreter
from torch.utils._pytree import tree_leaves, tree_unflatten

from fxprune.analysis import Analysis, analyze
from fxprune.apply.blueprint import Field, UnbuildableError, blueprint_to_keep_to, is_tensor, sizes_of, tensors_of
from fxprune.apply.equations import solve_widths
from fxprune.apply.fields import Decisions
from fxprune.apply.reload import reload, same_outputs
from fxprune.carry import former_groups
from fxprune.groups import Group, variables_of
from fxprune.inputs import Inputs
from fxprune.passes.double import double_inputs, in_double
from fxprune.passes.slim import slim_graph
from fxprune.plan import Plan
from fxprune.search.choices import Ints
from fxprune.search.ties import Tie
from fxprune.slim_module import SlimModule, assemble
from fxprune.widths import Range

_MOST_FIELDS = 3
"""Fields of one move: OPT's `hidden_size`, `word_embed_proj_dim` and `num_attention_heads` go together."""
_TAKERS = 4
"""Factors of a dimension that are tried for the one that changes: key/value groups, heads within them, dimensions."""


@dataclass(frozen=True, slots=True)
class Sayable:
    """What the search may choose so that the configuration can say it.

    Attributes:
        ties: groups whose widths keep their proportions.
        fields: of the configuration, for each tie those that say its widths.
        held: group that keeps its width -> why.
    """

    ties: tuple[Tie, ...]
    fields: tuple[tuple[str, ...], ...]
    held: Mapping[str, str]

    def __str__(self) -> str:
        """One line for each tie and each reason."""
        lines = [
            f"{', '.join(names)}: {len(each.groups)} groups in {each.steps} steps, {each.groups[0]}"
            for names, each in zip(self.fields, self.ties, strict=True)
        ]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.held.items():
            reasons.setdefault(reason, []).append(name)
        return "\n".join([*lines, *(f"{len(names)} groups held, {names[0]}: {why}" for why, names in reasons.items())])

    def candidates(
        self, groups: Sequence[Group], ranges: Mapping[str, Range], whole: Collection[str] = ()
    ) -> dict[str, Ints]:
        """Widths of each group that the search may choose from, ascending; those of a tie are as many.

        Args:
            groups: of the model.
            ranges: what each may be cut to if the configuration did not matter.
            whole: names of groups that keep their width; so does what is tied to them.
        """
        sizes = {group.name: group.size for group in groups}
        made = {name: np.array([sizes[name]], dtype=np.int64) for name in self.held}
        for each in self.ties:
            table = {name: each.widths(sizes[name]) for name in each.groups}
            allowed = np.logical_and.reduce(
                [ranges[name].allows(sizes[name], widths) for name, widths in table.items()]
            )
            if not set(whole).isdisjoint(each.groups):
                allowed[:-1] = False
            made.update((name, widths[allowed]) for name, widths in table.items())
        return made

    def among(self, whole: Analysis, part: Analysis) -> Sayable:
        """The same of the model without some blocks, whose groups may have other names.

        Args:
            whole: analysis of the whole model.
            part: analysis of the model without the blocks.
        """
        former = former_groups(whole, part)
        names = {group.name: former[group.name].name for group in part.groups}
        ties, fields = [], []
        for each, said in zip(self.ties, self.fields, strict=True):
            left = tuple(name for name, known in names.items() if known in each.groups)
            if left:
                ties.append(Tie(left, each.steps))
                fields.append(said)
        held = {name: self.held[known] for name, known in names.items() if known in self.held}
        return Sayable(tuple(ties), tuple(fields), held)


def sayable(model: nn.Module, example_inputs: Any = None, *, ignore: Sequence[str] = ()) -> Sayable:
    """Which widths the configuration of a Transformers model can say.

    Args:
        model: a Transformers model; it is not changed.
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them from the model.
        ignore: as for `fxprune.compile`.

    Returns:
        Groups that have to be cut together, by the fields that say their width, and groups that cannot be cut. `print` it.

    Raises:
        InputError: the model has no configuration that it could be built from.
    """
    return find_sayable(model, analyze(model, example_inputs, ignore=ignore))


def find_sayable(model: nn.Module, analysis: Analysis) -> Sayable:
    """As `sayable`, for a model that is analysed already."""
    return _Moves(analysis, Decisions(blueprint_to_keep_to(model), sizes_of(model))).run()


@dataclass(frozen=True, slots=True)
class _Move:
    """Fields that are made smaller by one ratio, and the widths that follow."""

    fields: tuple[Field, ...]
    values: Mapping[Field, int]
    widths: Mapping[str, int]
    removed: int


class _Moves:
    """The moves of one model, under way."""

    def __init__(self, analysis: Analysis, decisions: Decisions) -> None:
        self.analysis, self.decisions = analysis, decisions
        self.groups = {group.name: group for group in analysis.groups}
        self.reasons: dict[str, str] = {}

    def run(self) -> Sayable:
        """Accept moves that compute the same and cut nothing that an accepted one cuts."""
        accepted: list[_Move] = []
        covered: set[str] = set()
        for count in range(1, _MOST_FIELDS + 1):
            for move in sorted(self._moves(count), key=lambda each: -each.removed):
                if covered.isdisjoint(move.widths) and self._computes_the_same(move):
                    accepted.append(move)
                    covered.update(move.widths)
        name = type(self.decisions.blueprint.config).__name__
        held = {
            each: self.reasons.get(each, f"no fields of {name} say it") for each in self.groups if each not in covered
        }
        ties = tuple(Tie(tuple(move.widths), self._steps(move)) for move in accepted)
        return Sayable(ties, tuple(tuple(".".join(field) for field in move.fields) for move in accepted), held)

    def _moves(self, count: int) -> Iterator[_Move]:
        """Moves of so many fields that some widths correspond to."""
        names = self._fields()
        for chosen in combinations(names, count):
            factor = _smallest_factor(gcd(*(names[each] for each in chosen)))
            if factor is None or not self._related(chosen):
                continue
            values = {each: names[each] - names[each] // factor for each in chosen}
            try:
                sizes = self.decisions.blueprint.sizes({**self.decisions.implied, **values})
            except UnbuildableError:
                continue
            before = tensors_of(self.decisions.sizes)
            if tensors_of(sizes).keys() != before.keys():
                continue
            removed = sum(before[key] - size for key, size in tensors_of(sizes).items())
            found = (solve_widths(self.analysis, sizes, taker=taker) for taker in range(_TAKERS))
            distinct: list[dict[str, int]] = []
            for widths in found:
                if widths and widths not in distinct:
                    distinct.append(widths)
                    yield _Move(chosen, values, widths, removed)

    def _fields(self) -> dict[Field, int]:
        """Fields that decide sizes of tensors that can change, or numbers that such fields decide too."""
        values, decided = self.decisions.values, self.decisions.decided
        shaping = {name for name in values if any(is_tensor(key) for key in decided(name)) and self._can_change(name)}
        numbers = {key for name in shaping for key in decided(name)}
        others = {name for name in values if name not in shaping and not any(map(is_tensor, decided(name)))}
        return {
            name: value
            for name, value in values.items()
            if name in shaping or (name in others and not numbers.isdisjoint(decided(name)))
        }

    def _can_change(self, name: Field) -> bool:
        """Whether no tensor's dimension that a field decides is pinned."""
        program, axes = self.analysis.program, self.analysis.propagation.tensors
        free = {group.variable for group in self.analysis.groups}
        for tensor, dim in filter(is_tensor, self.decisions.decided(name)):
            known = axes.get(program.canonical(tensor)) if tensor in program.tensors else None
            assert isinstance(dim, int)
            if known is None or free.isdisjoint(variables_of(known[dim])):
                return False
        return True

    def _related(self, chosen: Sequence[Field]) -> bool:
        """Whether fields decide the same sizes, each with some other of them."""
        reached, rest = {chosen[0]}, set(chosen[1:])
        while near := {each for each in rest if any(self._meet(each, other) for other in reached)}:
            reached |= near
            rest -= near
        return not rest

    def _meet(self, first: Field, second: Field) -> bool:
        a, b = self.decisions.decided(first), self.decisions.decided(second)
        both = self.decisions.restructures(first) and self.decisions.restructures(second)
        return both or not a.isdisjoint(b)

    def _steps(self, move: _Move) -> int:
        """In how many steps the fields can be made smaller; fewer where the class refuses what lies between.

        Llama's configuration insists that `hidden_size` is a multiple of `num_attention_heads`.
        """
        values = {field: self.decisions.values[field] for field in move.fields}
        steps = gcd(*(self.groups[name].size for name in move.widths), *values.values())
        while (factor := _smallest_factor(steps)) is not None and not self._builds(values, steps):
            steps //= factor
        return steps

    def _builds(self, values: Mapping[Field, int], steps: int) -> bool:
        smaller = {field: value - value // steps for field, value in values.items()}
        try:
            self.decisions.blueprint.with_fields({**self.decisions.implied, **smaller})
        except UnbuildableError:
            return False
        return True

    def _computes_the_same(self, move: _Move) -> bool:
        """Whether the cut model and the class built with the moved fields agree on the example inputs."""
        said = ", ".join(f"{'.'.join(field)}={value}" for field, value in move.values.items())
        try:
            same = self._compare(move)
            reason = f"with {said} the class computes something else"
        except UnbuildableError as error:
            same, reason = False, f"with {said} the class fails: {error}"
        if not same:
            self.reasons.update((name, reason) for name in move.widths if name not in self.reasons)
        return same

    def _compare(self, move: _Move) -> bool:
        program = self.analysis.program
        slim = _cut(self.analysis, {name: (self.groups[name], width) for name, width in move.widths.items()})
        blueprint = self.decisions.blueprint
        like = next(iter(slim.parameters()))
        if like.is_meta:
            return True  # nothing to compare: `apply` will, with the weights
        made = reload(
            blueprint, blueprint.with_fields({**self.decisions.implied, **move.values}), slim.state_dict(), like
        )
        inputs: Inputs = tree_unflatten(list(program.traced), program.in_spec)
        return same_outputs(lambda precise: _outputs(slim, program.traced, precise=precise), made, inputs)


def _cut(analysis: Analysis, widths: Mapping[str, tuple[Group, int]]) -> SlimModule:
    """The graph form that keeps the first indices of groups."""
    kept = {
        name: np.broadcast_to(np.arange(width), (*group.shape[:-1], width)) for name, (group, width) in widths.items()
    }
    emitted = slim_graph(analysis.program, analysis.propagation, analysis.cut(kept))
    return assemble(analysis.program, emitted, Plan({}, {}, {}), None).eval()


def _outputs(slim: GraphModule, inputs: tuple[Any, ...], *, precise: bool) -> list[Any]:
    with torch.no_grad():
        if precise:
            slim, inputs = in_double(slim), double_inputs(inputs)
        return tree_leaves(Interpreter(slim).run(*inputs, enable_io_processing=False))


def _smallest_factor(number: int) -> int | None:
    """The smallest prime that divides a number; None for 1."""
    return next((each for each in range(2, number + 1) if number % each == 0), None)
