"""Arguments of operations as JSON: what is not a JSON value itself is an object with one field that says its kind.

    3, 0.5, true, null, "same"        as they are
    [..]                              a list; {"tuple": [..]} a tuple
    {"node": 7}                       what the graph's node number 7 computed
    {"dtype": "float32"}              likewise "device", "layout", "memory_format", "slice", "float" (inf, nan), "complex"

Everything is looked up in tables or rebuilt from numbers. Texts stay texts: the code that `torch.fx` writes for a graph has
them as literals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch.fx import Node

from fxprune.errors import CheckpointError
from fxprune.files.tensors import DTYPES
from fxprune.safe_json import array, integer, number, one_of, shown, text

Resolve: TypeAlias = Callable[[int], Node]
"""From the number of a node to the node; raises CheckpointError where there is none yet."""

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d{1,3})?")
_LAYOUTS = {"strided": torch.strided}
_FORMATS = {
    str(each).removeprefix("torch."): each
    for each in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_MOST = 100_000
_LONGEST = 10_000
_DEEPEST = 8


def encode_value(value: Any, numbers: Mapping[Node, int]) -> Any:
    """An argument as JSON.

    Raises:
        CheckpointError: files cannot hold it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Node):
        return {"node": numbers[value]}
    if isinstance(value, slice):
        return {"slice": [encode_value(each, numbers) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, list | tuple):
        parts = [encode_value(each, numbers) for each in value]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    return _encode_constant(value)


def _encode_constant(value: Any) -> dict[str, Any]:
    if isinstance(value, complex):
        return {"complex": [encode_value(value.real, {}), encode_value(value.imag, {})]}
    name = str(value).removeprefix("torch.")
    if isinstance(value, torch.dtype) and name in DTYPES:
        return {"dtype": name}
    if isinstance(value, torch.device) and _DEVICE.fullmatch(name):
        return {"device": name}
    if isinstance(value, torch.layout) and name in _LAYOUTS:
        return {"layout": name}
    if isinstance(value, torch.memory_format) and name in _FORMATS:
        return {"memory_format": name}
    raise CheckpointError(f"the graph holds {value!r:.200}, a {type(value).__name__}, which files cannot")


def decode_value(value: Any, what: str, resolve: Resolve, depth: int = 0) -> Any:
    """The argument that was encoded.

    Args:
        value: parsed JSON.
        what: whose it is, for errors.
        resolve: gives the nodes that it may speak of.
        depth: levels above it.

    Raises:
        CheckpointError: it is no argument.
    """
    if depth > _DEEPEST:
        raise CheckpointError(f"{what} is nested too deep")
    if isinstance(value, list):
        return [decode_value(each, what, resolve, depth + 1) for each in array(value, what, most=_MOST)]
    if isinstance(value, dict):
        return _decode_kind(value, what, resolve, depth + 1)
    if isinstance(value, str):
        return text(value, what, longest=_LONGEST)
    return value if value is None or isinstance(value, bool) else number(value, what)


def _decode_kind(value: dict[str, Any], what: str, resolve: Resolve, depth: int) -> Any:
    if len(value) != 1:
        raise CheckpointError(f"{what} is an object of {len(value)} fields; a value has one, its kind")
    ((kind, content),) = value.items()
    if kind == "node":
        return resolve(integer(content, what, least=0))
    if kind in ("tuple", "slice"):
        parts = [decode_value(each, what, resolve, depth) for each in array(content, what, most=_MOST)]
        if kind == "slice" and len(parts) != 3:
            raise CheckpointError(f"{what} is a slice of {len(parts)} parts")
        return tuple(parts) if kind == "tuple" else slice(*parts)
    return _decode_constant(kind, content, what)


def _decode_constant(kind: str, content: Any, what: str) -> Any:
    if kind == "complex":
        parts = [_real(each, what) for each in array(content, what, most=2)]
        return complex(*parts)
    if kind == "device":
        if not _DEVICE.fullmatch(text(content, what)):
            raise CheckpointError(f"{what} is the device {shown(content)}, which fxprune does not know")
        return torch.device(content)
    tables: Mapping[str, Mapping[str, Any]] = {
        "dtype": DTYPES,
        "layout": _LAYOUTS,
        "memory_format": _FORMATS,
        "float": _FLOATS,
    }
    if kind not in tables:
        raise CheckpointError(f"{what} is of the kind {shown(kind)}, which fxprune does not know")
    return tables[kind][one_of(content, what, tables[kind])]


def _real(value: Any, what: str) -> float:
    if isinstance(value, dict):
        return float(decode_value(value, what, _no_node))
    return float(number(value, what))


def _no_node(_: int) -> Node:
    raise CheckpointError("a number is no node")
