"""From `module:callable` to a model in eval mode."""

from __future__ import annotations

import importlib
import os
import sys
from ast import literal_eval
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.cli.vision_operators import declare_vision_operators
from fxprune.errors import InputError

__all__ = ["load_model", "load_named", "parse_arguments"]

EXAMPLE = "torchvision.models:resnet50"


def load_model(source: str, arguments: Sequence[str] = (), weights: Path | None = None) -> nn.Module:
    """Import, call and fill a model.

    Args:
        source: `module:callable`, such as `torchvision.models:resnet50`; modules of the working directory count. What
            the name stands for may be a model already.
        arguments: Keyword arguments of the call, as `name=value`; see `parse_arguments`.
        weights: A state dict: `.safetensors`, or anything that `torch.load(weights_only=True)` reads.

    Returns:
        The model in eval mode.

    Raises:
        InputError: One of these is not usable.
    """
    made = _look_up(source, "model", EXAMPLE)
    if not isinstance(made, nn.Module):
        made = _call(made, source, parse_arguments(arguments))
    if not isinstance(made, nn.Module):
        raise InputError(f"{source} gave an object of type {type(made).__name__}, which is not a torch.nn.Module.")
    if weights is not None:
        _fill(made, weights)
    return made.eval()


def parse_arguments(arguments: Sequence[str]) -> dict[str, object]:
    """Read `name=value` pairs; a value that is no Python literal is taken as text.

    Example:
        >>> parse_arguments(["depth=12", "name=vit", "sizes=(1, 2)"])
        {'depth': 12, 'name': 'vit', 'sizes': (1, 2)}
    """
    parsed: dict[str, object] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--arg {argument!r} is not name=value, such as --arg num_classes=10.")
        parsed[name] = _literal(value)
    return parsed


def _literal(value: str) -> object:
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def load_named(source: str | None, what: str, *, call: bool) -> Any:
    """What `module:name` stands for, where an option gives it.

    Args:
        source: `module:name`, such as `my_task:accuracy`; modules of the working directory count. None for None.
        what: the option, for messages.
        call: whether a function is to be called, without arguments, for what is wanted.

    Raises:
        InputError: It cannot be imported, is not callable, or its call fails.
    """
    if source is None:
        return None
    found = _look_up(source, what, f"my_task:{what}")
    if not call and not callable(found):
        raise InputError(f"--{what} {source} is an object of type {type(found).__name__}, which cannot be called.")
    return _call(found, source, {}) if call and isinstance(found, FunctionType | type) else found


def _look_up(source: str, what: str, example: str) -> object:
    module_name, colon, path = source.partition(":")
    if not (module_name and colon and path):
        raise InputError(f"The {what} {source!r} is not module:callable, such as {example}.")
    found: object = _import(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(f"{module_name} has no {path!r}; the {what} is module:callable, such as {example}.")
        found = getattr(found, name)
    return found


def _import(name: str) -> ModuleType:
    working_directory = os.getcwd()
    if working_directory not in sys.path:
        sys.path.insert(0, working_directory)
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise InputError(_import_failure(name, error)) from error
    except Exception as error:
        raise InputError(_import_failure(name, error)) from error
    return _import_without_operators(name)


def _import_without_operators(name: str) -> ModuleType:
    """Import once more, with torchvision's compiled operators declared but not implemented."""
    declare_vision_operators()
    for half_imported in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
        del sys.modules[half_imported]
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(_import_failure(name, error)) from error


def _import_failure(name: str, error: Exception) -> str:
    if "operator torchvision::" in str(error):
        return (
            f"Importing {name} failed, because torchvision's compiled operators do not load ({error}). The installed "
            f"torchvision was built for another PyTorch than {torch.__version__}, which is installed: install the "
            "release of torchvision that belongs to it, from the same package index as PyTorch."
        )
    if isinstance(error, ModuleNotFoundError):
        return f"Importing {name} failed: {error}. Is it installed in {sys.prefix}, or in the working directory?"
    return f"Importing {name} failed with {type(error).__name__}: {error}"


def _call(maker: object, source: str, arguments: Mapping[str, object]) -> object:
    if not callable(maker):
        raise InputError(f"{source} is an object of type {type(maker).__name__}: neither a model nor callable.")
    try:
        return maker(**arguments)
    except Exception as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(f"Calling {source}({shown}) failed with {type(error).__name__}: {error}") from error


def _fill(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(_read_state(path))
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not fit the model. {error}") from error


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"There is no file of weights at {path}.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
    return _unwrap(_read_pickle(path), path)


def _read_pickle(path: Path) -> object:
    from pickle import UnpicklingError

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path} is not a state dict that can be loaded safely; save one with torch.save(model.state_dict(), ...) "
            f"or as .safetensors. PyTorch says: {error}"
        ) from error


def _unwrap(saved: object, path: Path) -> Mapping[str, Tensor]:
    """Accept training checkpoints, which keep the state dict under a key of its own."""
    for key in ("state_dict", "model"):
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if isinstance(saved, Mapping) and all(isinstance(value, Tensor) for value in saved.values()):
        return saved
    raise InputError(f"{path} holds no state dict (parameter names with their tensors) but {type(saved).__name__}.")
