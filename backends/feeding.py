"""Which tensor goes to which input of a file.

A file's inputs are matched by their place in the module's arguments, `(args, kwargs)` as PyTorch's pytrees spell it
(`[0][1]`, `[1]['mask']`), which fxprune writes beside what it exports. In files from elsewhere positional inputs go by
order and keyword inputs by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.errors import BackendError


def place_tensors(
    expected: Mapping[str, str], places: Mapping[str, str], inputs: tuple[Any, ...], kwinputs: dict[str, Any]
) -> dict[str, Tensor]:
    """The tensors among the arguments, by the name of the input that each belongs to.

    Args:
        expected: name of each input, in order -> what it takes, in words.
        places: name of each input -> its place in the arguments; empty for files from elsewhere.
        inputs: positional arguments, nested as the module takes them; what is no tensor is part of the file.
        kwinputs: keyword arguments.

    Raises:
        BackendError: an input is missing or unknown; the message says what the file takes.

    Example:
        >>> import torch
        >>> list(place_tensors({"x": "float32 [2]"}, {}, (torch.ones(2),), {}))
        ['x']
    """
    names = {place: name for name, place in places.items()} or _by_order(expected)
    found: dict[str, Tensor] = {}
    for key_path, leaf in pytree.tree_flatten_with_path((inputs, kwinputs))[0]:
        if not isinstance(leaf, Tensor):
            continue
        path = pytree.keystr(key_path)
        name = names.get(path, path.removeprefix("[1]['").removesuffix("']"))
        if name not in expected:
            raise BackendError(f"the file has no input for argument {path}; {_signature(expected)}")
        found[name] = leaf.detach()
    if found.keys() != expected.keys():
        absent = ", ".join(name for name in expected if name not in found)
        raise BackendError(f"input {absent} is missing; {_signature(expected)}")
    return found


def _by_order(names: Mapping[str, str]) -> dict[str, str]:
    """Places of positional arguments, for files that do not say them."""
    return {f"[0][{index}]": name for index, name in enumerate(names)}


def _signature(expected: Mapping[str, str]) -> str:
    """What the file takes, in words."""
    return "it takes " + ", ".join(f"{name}: {what}" for name, what in expected.items())
