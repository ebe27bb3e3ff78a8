"""Which values of a configuration's fields give the sizes of a slim model.

Each field that could matter is tried once at another value, which shows the sizes that it decides. Where such a size has
to change by a ratio, the field's value times that ratio is a candidate. Candidates are taken together first; where that
is not it, one at a time, each that brings more sizes right than before, until all are.

Sizes of tensors have to be right. Between equals decide the numbers of modules that the forward was seen to use, then the
others (`hidden_size` of a module that never reads it), which may be out of date in the slim copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from fxprune.apply.blueprint import (
    Blueprint,
    Field,
    Sizes,
    UnbuildableError,
    implied_fields,
    is_tensor,
    number_fields,
    sizes_of,
    tensors_of,
)
from fxprune.apply.slots import Slot

_ROUNDS = 24


@dataclass(slots=True)
class Decisions:
    """What the fields of a configuration decide; asked for when needed, and remembered.

    Attributes:
        blueprint: of the model.
        sizes: of the model as it is.
        values: of the fields that are whole numbers.
        implied: of fields that are None or missing: what is computed without them.
        refusals: what the class said to values that it was tried with.
    """

    blueprint: Blueprint
    sizes: Sizes
    values: Mapping[Field, int] = field(init=False)
    implied: Mapping[Field, int] = field(init=False)
    refusals: list[str] = field(init=False, default_factory=list)
    _restructuring: set[Field] = field(init=False, default_factory=set)
    _decided: dict[Field, frozenset[tuple[str, int | str]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Find the fields."""
        self.implied = implied_fields(self.blueprint, self.sizes)
        self.values = {**number_fields(self.blueprint), **self.implied}

    def decided(self, name: Field) -> frozenset[tuple[str, int | str]]:
        """The sizes that a field decides alone, all other fields as they are."""
        if name not in self._decided:
            self._decided[name] = self._ask(name)
        return self._decided[name]

    def restructures(self, name: Field) -> bool:
        """Whether tensors appear that were not there: a projection where two widths are not equal any more."""
        self.decided(name)
        return name in self._restructuring

    def _ask(self, name: Field) -> frozenset[tuple[str, int | str]]:
        value = self.values[name]
        for trial in (2 * value, value // 2, value + 1):
            try:
                tried = self.blueprint.sizes({**self.implied, name: trial})
            except UnbuildableError:
                continue
            if tensors_of(tried).keys() > tensors_of(self.sizes).keys():
                self._restructuring.add(name)
            return frozenset(key for key, size in self.sizes.items() if tried.get(key, size) != size)
        return frozenset()


def find_fields(decisions: Decisions, slim: nn.Module, used: Mapping[Slot, int]) -> dict[Field, int] | None:
    """Values of fields that give the slim model's sizes, only those that change; None where none do.

    Args:
        decisions: of the original's fields.
        slim: the copy.
        used: numbers that its forward uses.
    """
    goal = _Goal.of(sizes_of(slim), {(slot.holder, slot.steps[0]) for slot in used if len(slot.steps) == 1})
    chosen: dict[Field, int] = dict(decisions.implied)
    sizes = decisions.sizes
    together = {**chosen, **{name: values[0] for name, values in _candidates(decisions, goal, sizes, chosen).items()}}
    tried = _sizes(decisions, together)
    if tried is not None and goal.wrong(tried) < goal.wrong(sizes):
        chosen, sizes = together, tried
    for _ in range(_ROUNDS):
        if not any(goal.wrong(sizes)):
            break
        options = _candidates(decisions, goal, sizes, chosen)
        steps = ({**chosen, name: value} for name, values in options.items() for value in values)
        better = [(goal.wrong(made), step, made) for step in steps if (made := _sizes(decisions, step)) is not None]
        best = min(better, key=lambda each: each[0], default=None)
        if best is None or best[0] >= goal.wrong(sizes):
            break
        _, chosen, sizes = best
    return _changed(decisions, chosen) if goal.wrong(sizes)[0] == 0 else None


@dataclass(frozen=True, slots=True)
class _Goal:
    """Sizes that have to be, and numbers that should be, those that the forward uses before the others."""

    needed: Sizes
    used: Sizes
    unused: Sizes

    @classmethod
    def of(cls, slim: Sizes, used: Collection[tuple[str, int | str]]) -> _Goal:
        numbers = {key: size for key, size in slim.items() if not is_tensor(key)}
        return cls(
            tensors_of(slim),
            {key: size for key, size in numbers.items() if key in used},
            {key: size for key, size in numbers.items() if key not in used},
        )

    def wrong(self, sizes: Sizes) -> tuple[int, int, int]:
        """How many of each sort are not what they should be."""
        extra = len(tensors_of(sizes).keys() - self.needed.keys())
        needed, used, unused = (
            sum(sizes.get(key) != size for key, size in each.items()) for each in (self.needed, self.used, self.unused)
        )
        return extra + needed, used, unused


def _candidates(decisions: Decisions, goal: _Goal, sizes: Sizes, chosen: Mapping[Field, int]) -> dict[Field, list[int]]:
    """Values that would bring a wrong size right, by the field that decides it."""
    found: dict[Field, list[int]] = {}
    for name, original in decisions.values.items():
        value = chosen.get(name, original)
        options = dict.fromkeys(_options(decisions.decided(name), goal, sizes, value))
        if options:
            found[name] = list(options)
    return found


def _options(decided: frozenset[tuple[str, int | str]], goal: _Goal, sizes: Sizes, value: int) -> Iterator[int]:
    """A size may grow with the value, or in inverse proportion (the width of a head with the number of heads)."""
    for wanted in (goal.needed, goal.used, goal.unused):
        for key in sorted(decided & wanted.keys(), key=str):
            size = sizes.get(key, 0)
            if size > 0 and wanted[key] > 0 and size != wanted[key]:
                yield from _scaled(value, wanted[key], size)
                if not is_tensor(key):
                    yield from _scaled(value, size, wanted[key])


def _scaled(value: int, numerator: int, denominator: int) -> Iterator[int]:
    if value * numerator % denominator == 0:
        yield value * numerator // denominator


def _sizes(decisions: Decisions, values: Mapping[Field, int]) -> Sizes | None:
    try:
        return decisions.blueprint.sizes(values)
    except UnbuildableError as error:
        decisions.refusals.append(str(error))
        return None


def _changed(decisions: Decisions, chosen: Mapping[Field, int]) -> dict[Field, int]:
    """Without what need not be said: implied values that are implied still."""
    made = {
        name: value for name, value in chosen.items() if value != decisions.values[name] or name in decisions.implied
    }
    sizes = _sizes(decisions, made)
    for name in decisions.implied:
        less = {other: value for other, value in made.items() if other != name}
        if _sizes(decisions, less) == sizes:
            made = less
    return made
