"""Slots: the places where a module keeps whole numbers, by a path that means the same in every copy of the model.

A slot is the path of a module and the steps from there: an attribute, a field of an object that the attribute holds (a
configuration), an index of a tuple or list, a key of a dictionary. Configurations that several modules share are
several slots, one for each module that holds them: what each needs is found out separately, and only where they
disagree does each get a copy of its own.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OWN_TO_MODULES = frozenset(nn.Module().__dict__) | {"training"}
_NO_CONTAINERS = (
    nn.Module,
    Tensor,
    type,
    types.FunctionType,
    types.MethodType,
    types.ModuleType,
    str,
    bytes,
    float,
    torch.dtype,
)
_FOREIGN = ("torch", "builtins", "collections", "functools", "numpy", "typing")
_DEPTH = 3
_LONGEST = 256
"""A longer sequence is data, such as a table of positions: no number of it is a size."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One whole number of a model.

    Attributes:
        holder: path of the module.
        steps: attribute, then fields, indices or keys.
    """

    holder: str
    steps: tuple[Any, ...]

    def __str__(self) -> str:
        """As Python would spell it."""
        first, *rest = self.steps
        text = f"{self.holder}.{first}" if self.holder else str(first)
        return text + "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in rest)


def is_object(value: object) -> bool:
    """Whether a value is an object with fields of its own, such as a configuration, and no part of a library."""
    return (
        not isinstance(value, (*_NO_CONTAINERS, int, tuple, list, dict))
        and hasattr(value, "__dict__")
        and type(value).__module__.partition(".")[0] not in _FOREIGN
    )


def find_slots(model: nn.Module) -> dict[Slot, int]:
    """Every slot of a model with its value; 0, 1 and negative numbers are no sizes that can change."""
    return {
        Slot(path, steps): value
        for path, module in model.named_modules()
        for name, attribute in module.__dict__.items()
        if name not in _OWN_TO_MODULES
        for steps, value in _numbers(attribute, (name,))
    }


def _numbers(value: Any, steps: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value > 1:
            yield steps, int(value)
        return
    if len(steps) > _DEPTH:
        return
    for step, each in _children(value):
        yield from _numbers(each, (*steps, step))


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, tuple | list):
        return list(enumerate(value)) if len(value) <= _LONGEST else []
    if isinstance(value, dict):
        return [(key, each) for key, each in value.items() if isinstance(key, str)]
    if is_object(value):
        return [(key, each) for key, each in vars(value).items() if isinstance(key, str)]
    return []


def replace(value: Any, steps: tuple[Any, ...], new: Callable[[Any], Any]) -> Any:
    """`value` with `new(old)` at the end of `steps`; containers on the way are copied, never edited."""
    if not steps:
        return new(value)
    step, rest = steps[0], steps[1:]
    if isinstance(value, tuple | list):
        parts = [replace(each, rest, new) if at == step else each for at, each in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    made = copy.copy(value)
    if isinstance(value, dict):
        made[step] = replace(value[step], rest, new)
    else:
        made.__dict__[step] = replace(made.__dict__[step], rest, new)
    return made


def always(value: Any) -> Callable[[Any], Any]:
    """The function of `replace` that puts `value` there."""
    return lambda _: value


def read(model: nn.Module, slot: Slot) -> Any:
    """The value of a slot."""
    value: Any = model.get_submodule(slot.holder).__dict__[slot.steps[0]]
    for step in slot.steps[1:]:
        value = vars(value)[step] if is_object(value) else value[step]
    return value


def write(model: nn.Module, values: Mapping[Slot, int]) -> None:
    """Set slots of a model in place.

    Shared objects stay shared where all modules that hold them agree; else each that needs a value gets its own copy.
    """
    for identity, wanted in _by_object(model, values).items():
        if identity is None or not _agree(wanted):
            _write_each(model, wanted)
        else:
            _write_shared(model, wanted)


def _by_object(model: nn.Module, values: Mapping[Slot, int]) -> dict[int | None, dict[Slot, int]]:
    """Slots by the object that holds them; None for what modules hold themselves."""
    found = dict[int | None, dict[Slot, int]]()
    for slot, value in values.items():
        held = model.get_submodule(slot.holder).__dict__[slot.steps[0]]
        found.setdefault(id(held) if is_object(held) else None, {})[slot] = value
    return found


def _agree(wanted: Mapping[Slot, int]) -> bool:
    values = dict[tuple[Any, ...], set[int]]()
    for slot, value in wanted.items():
        values.setdefault(slot.steps[1:], set()).add(value)
    return all(len(each) == 1 for each in values.values())


def _write_each(model: nn.Module, wanted: Mapping[Slot, int]) -> None:
    for slot, value in wanted.items():
        if read(model, slot) != value:
            own = model.get_submodule(slot.holder).__dict__
            own[slot.steps[0]] = replace(own[slot.steps[0]], slot.steps[1:], always(value))


def _write_shared(model: nn.Module, wanted: Mapping[Slot, int]) -> None:
    for slot, value in wanted.items():
        if read(model, slot) != value:
            held = model.get_submodule(slot.holder).__dict__[slot.steps[0]]
            field, *rest = slot.steps[1:]
            vars(held)[field] = replace(vars(held)[field], tuple(rest), always(value))
