"""Blueprint: a Transformers class and its configuration, as a function from the configuration's fields to sizes.

What a field decides is found by asking the class: it is built on the meta device, where tensors take no memory, from the
configuration with other values, and the sizes of its tensors and the whole numbers that its modules hold are compared.
No field is known by name. The configuration is made anew from its dictionary each time, as `from_pretrained` does with
`config.json`, so that a number which the configuration computes itself (Mamba's `intermediate_size`) is computed again.

Three sorts of fields can decide a size: whole numbers, fields that are None and then computed (GPT-2's `n_inner`), and
those that the class asks for and the configuration does not have (Qwen2's `head_dim`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from fxprune.apply.slots import is_object
from fxprune.errors import FxpruneError, InputError

Field: TypeAlias = tuple[str, ...]
"""Keys of the configuration's dictionary; more than one for a configuration within it."""
Value: TypeAlias = Any
"""Of a field: a whole number, or a list with an entry for each layer."""
Sizes: TypeAlias = Mapping[tuple[str, int | str], int]
"""(tensor, dimension) or (module, attribute) -> whole number."""

_UNUSED = 48
"""Where values start that a field is tried at to see what it decides: many class check that they divide by 16."""


class UnbuildableError(FxpruneError):
    """The class cannot be built from a configuration; inside fxprune this is an answer, not a failure."""

    @classmethod
    def because(cls, error: Exception) -> UnbuildableError:
        """With the kind of an error and the first line of what it says."""
        return cls(f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}")


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How a model is built.

    Attributes:
        kind: the Transformers class.
        config: its configuration; never edited.
    """

    kind: type[nn.Module]
    config: Any

    def with_fields(self, values: Mapping[Field, Value]) -> Any:
        """The configuration with other values of some fields, as it would be read from a file.

        Raises:
            UnbuildableError: the configuration's own checks refuse them.
        """
        try:
            data = copy.deepcopy(self.config.to_dict())
            for field, value in values.items():
                holder = data
                for key in field[:-1]:
                    holder = holder[key]
                holder[field[-1]] = value
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = type(self.config).from_dict(data)
            made._attn_implementation = self.config._attn_implementation
        except Exception as error:
            raise UnbuildableError.because(error) from error
        return made

    def build(self, config: Any) -> nn.Module:
        """The class on the meta device.

        Raises:
            UnbuildableError: it refuses the configuration.
        """
        build: Any = self.kind
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                made: nn.Module = build._from_config(config)
        except Exception as error:
            raise UnbuildableError.because(error) from error
        return made

    def sizes(self, values: Mapping[Field, Value]) -> Sizes:
        """Sizes of the class built with other values of some fields.

        Raises:
            UnbuildableError: there is no such model.
        """
        return sizes_of(self.build(self.with_fields(values)))


def blueprint_of(model: nn.Module) -> Blueprint | None:
    """The blueprint of a Transformers model; None for any other."""
    config = getattr(model, "config", None)
    if not is_object(config) or not hasattr(type(model), "_from_config") or not hasattr(config, "to_dict"):
        return None
    return Blueprint(type(model), config)


def blueprint_to_keep_to(model: nn.Module) -> Blueprint:
    """The blueprint of a model that is to be cut with `config=True`.

    Raises:
        InputError: it is no Transformers model.
    """
    blueprint = blueprint_of(model)
    if blueprint is None:
        msg = f"{type(model).__name__} is no Transformers model: it has no configuration to keep to; leave out config=True"
        raise InputError(msg)
    return blueprint


def sizes_of(model: nn.Module) -> Sizes:
    """Sizes of what a state dict holds, and whole numbers that modules hold."""
    found: dict[tuple[str, int | str], int] = {}
    for name, tensor in model.state_dict().items():
        found.update({(name, dim): size for dim, size in enumerate(getattr(tensor, "shape", ()))})
    for path, module in model.named_modules():
        found.update({(path, name): int(value) for name, value in vars(module).items() if _is_number(name, value)})
    return found


def is_tensor(key: tuple[str, int | str]) -> bool:
    """Whether a key of `Sizes` is a dimension of a tensor."""
    return isinstance(key[1], int)


def number_fields(blueprint: Blueprint) -> dict[Field, int]:
    """Fields that are whole numbers from 1 on, with their values."""
    return {field: value for field, value in _leaves(blueprint.config) if _is_number(field[-1], value) and value > 0}


def list_fields(blueprint: Blueprint) -> dict[Field, list[Any]]:
    """Fields that are lists: what kind of attention each layer has, for example."""
    return {field: value for field, value in _leaves(blueprint.config) if isinstance(value, list)}


def adopt(config: Any, before: Any, after: Any) -> None:
    """Give a configuration, in place, what differs between two others of its kind."""
    for key, value in vars(after).items():
        own = vars(before).get(key)
        if is_object(value) and hasattr(value, "to_dict") and is_object(own):
            adopt(vars(config)[key], own, value)
        elif key not in vars(before) or own != value:
            vars(config)[key] = value


def implied_fields(blueprint: Blueprint, sizes: Sizes) -> dict[Field, int]:
    """Fields that are None, or asked for and missing, with the value that says what is computed without them.

    Args:
        blueprint: of the model.
        sizes: of the model as it is.
    """
    empty = [field for field, value in _leaves(blueprint.config) if value is None]
    found: dict[Field, int] = {}
    for field in dict.fromkeys((*empty, *((name,) for name in _missing(blueprint)))):
        value = _implied(blueprint, field, sizes)
        if value is not None:
            found[field] = value
    return found


def _implied(blueprint: Blueprint, field: Field, sizes: Sizes) -> int | None:
    known = set(sizes.values())
    trial = next(value for value in range(_UNUSED, 1 << 62, 16) if value not in known)
    try:
        tried = blueprint.sizes({field: trial})
        said = {sizes[key] for key, size in tried.items() if size == trial and key in sizes}
        (value,) = said
        same = tensors_of(blueprint.sizes({field: value})) == tensors_of(sizes)
    except (UnbuildableError, ValueError):
        return None
    return value if same and tensors_of(tried) != tensors_of(sizes) else None


def tensors_of(sizes: Sizes) -> Sizes:
    """Only the dimensions of tensors."""
    return {key: size for key, size in sizes.items() if is_tensor(key)}


def _leaves(config: Any, before: Field = ()) -> Iterator[tuple[Field, Any]]:
    """Every entry of a configuration's dictionary that is no configuration itself."""
    for key, value in config.to_dict().items():
        inner = getattr(config, key, None)
        if isinstance(value, dict) and hasattr(inner, "to_dict"):
            yield from _leaves(inner, (*before, key))
        else:
            yield (*before, key), value


def _missing(blueprint: Blueprint) -> list[str]:
    """Fields that the class asks for, with a default, and that its configuration lacks."""
    asked: dict[str, None] = {}

    def ask(_: object, name: str) -> Any:
        if not name.startswith("_"):
            asked[name] = None
        raise AttributeError(name)

    config = blueprint.with_fields({})
    config.__class__ = type(type(config).__name__, (type(config),), {"__getattr__": ask, "__module__": __name__})
    try:
        blueprint.build(config)
    except UnbuildableError:
        return []
    return list(asked)


def _is_number(name: str, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_")
