"""Dropped blocks in the user's own class: the lists that hold them get shorter.

A list of modules (`nn.ModuleList`, `nn.Sequential`) that `forward` goes through can do without some of them. What follows a
dropped block moves up, so its name changes (`layers.5` becomes `layers.4`), and so does every number by which it knows its
place: one that in all blocks of the list equals the position, such as `self_attn.layer_idx`, which finds the block's keys
and values in a cache. A Transformers configuration loses as many layers, and the same entries of its lists that have one for
each layer (`layer_types`); which of its fields counts these layers is asked of the class.

The shorter model is then cut like any other, by a plan whose names have moved up too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from fxprune.apply.blueprint import (
    Blueprint,
    Field,
    UnbuildableError,
    adopt,
    blueprint_of,
    list_fields,
    number_fields,
    sizes_of,
    tensors_of,
)
from fxprune.capture import structural_copy
from fxprune.errors import CannotApply
from fxprune.plan import Plan

Anything = TypeVar("Anything")


@dataclass(frozen=True, slots=True)
class Moves:
    """New names of what follows dropped blocks.

    Attributes:
        dropped: paths of the blocks.
        paths: old path of each block that moves -> new path.
    """

    dropped: tuple[str, ...]
    paths: Mapping[str, str]

    def name(self, name: str) -> str | None:
        """What a module, tensor or group is called now; None if it was dropped."""
        for path in _around(name):
            if path in self.dropped:
                return None
            if path in self.paths:
                return self.paths[path] + name[len(path) :]
        return name

    def keys(self, named: Mapping[str, Anything]) -> dict[str, Anything]:
        """A mapping by new names, without what was dropped."""
        return {new: value for name, value in named.items() if (new := self.name(name)) is not None}

    def plan(self, plan: Plan) -> Plan:
        """The plan of the shorter model."""
        return replace(
            plan,
            kept=self.keys(plan.kept),
            slices=self.keys(plan.slices),
            widths=self.keys(plan.widths),
            signature=self.keys(plan.signature),
            ignore=tuple(new for each in plan.ignore if (new := self.name(each)) is not None),
            dropped=(),
        )


def shorten(model: nn.Module, dropped: Sequence[str]) -> tuple[nn.Module, Moves]:
    """A copy of a model without some blocks, that shares its tensors, and the names that changed.

    Raises:
        CannotApply: a block is in no list.
    """
    made = structural_copy(model)
    paths: dict[str, str] = {}
    for parent, names in _by_list(made, dropped).items():
        paths.update(_take_out(made.get_submodule(parent), parent, names))
        blueprint = blueprint_of(made)
        if blueprint is not None:
            _shorten_config(blueprint, made, model.get_submodule(parent), names)
    return made, Moves(tuple(dropped), paths)


def _by_list(model: nn.Module, dropped: Sequence[str]) -> dict[str, list[str]]:
    """Keys of the dropped blocks, by the path of the list that holds them."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in dropped:
        parent, _, name = path.rpartition(".")
        try:
            holder = model.get_submodule(parent)
        except AttributeError:
            holder = nn.Module()
        if not isinstance(holder, nn.ModuleList | nn.Sequential) or name not in holder._modules:
            msg = (
                f"the plan drops {path}, which is in no list of modules (nn.ModuleList, nn.Sequential), so that "
                f"{type(model).__name__} cannot do without it in its own Python. The slim module itself (`slim`) does"
            )
            raise CannotApply(msg)
        found[parent].append(name)
    return found


def _take_out(holder: nn.Module, parent: str, dropped: Sequence[str]) -> dict[str, str]:
    """Take blocks out of a list in place; returns old and new paths of those that moved."""
    blocks = dict(holder._modules)
    numbered = list(blocks) == [str(at) for at in range(len(blocks))]
    kept = [name for name in blocks if name not in dropped]
    names = {name: str(at) if numbered else name for at, name in enumerate(kept)}
    for path, attribute in _positions([each for each in blocks.values() if each is not None]):
        for at, name in enumerate(kept):
            block = blocks[name]
            assert block is not None
            block.get_submodule(path).__dict__[attribute] = at
    holder._modules.clear()
    holder._modules.update({names[name]: blocks[name] for name in kept})
    before = f"{parent}." if parent else ""
    return {before + name: before + new for name, new in names.items() if name != new}


def _positions(blocks: Sequence[nn.Module]) -> Iterator[tuple[str, str]]:
    """Attributes (path within a block, name) by which every block knows its position in the list."""
    modules = [dict(block.named_modules()) for block in blocks]
    for path, first in modules[0].items() if len(blocks) > 1 else ():
        for name, value in vars(first).items():
            if type(value) is int and all(
                path in each and type(vars(each[path]).get(name)) is int and vars(each[path])[name] == at
                for at, each in enumerate(modules)
            ):
                yield path, name


def _shorten_config(blueprint: Blueprint, made: nn.Module, holder: nn.Module, dropped: Sequence[str]) -> None:
    """Have a configuration, in place, describe the shorter model, where some field counts these layers."""
    names = list(holder._modules)
    gone = {names.index(name) for name in dropped}
    lists: dict[Field, Any] = {
        field: [each for at, each in enumerate(value) if at not in gone]
        for field, value in list_fields(blueprint).items()
        if len(value) == len(names)
    }
    wanted = tensors_of(sizes_of(made))
    for field, value in number_fields(blueprint).items():
        if value != len(names):
            continue
        try:
            shorter = blueprint.with_fields({**lists, field: value - len(gone)})
            found = tensors_of(sizes_of(blueprint.build(shorter)))
        except UnbuildableError:
            continue
        if found == wanted:
            adopt(made.config, blueprint.with_fields({}), shorter)
            return


def _around(name: str) -> Iterator[str]:
    """A name and the names of what it is in, innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]
