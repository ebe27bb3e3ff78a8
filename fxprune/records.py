"""Records: finished results as lines of text that a later run can trust, read back to the last bit.

A record is a key with named values: arrays of float64 or int64, and whatever JSON can say. Its line is

    <16 hexadecimal digits: BLAKE2b of the rest> <JSON: {"key": ..., "arrays": {name: {type, shape, data}}, "values": ...}>

with the arrays' bytes, little-endian, in base64. Python writes floats in the shortest form that reads back the same, so
nothing is lost. No part of it can be executed.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np

from fxprune.errors import CheckpointError

Values: TypeAlias = dict[str, Any]
"""Names to arrays of float64 or int64, or to what JSON can say (None, booleans, numbers, texts, lists, dicts)."""

LONGEST = 2**30
"""Bytes that one record may have."""
_TYPES = {"float64": "<f8", "int64": "<i8"}


def encode(key: str, values: Mapping[str, Any]) -> bytes:
    """The record's line, with its end.

    Raises:
        TypeError: a value is neither an array of float64 or int64 nor JSON.
        ValueError: the record is longer than a file of them may hold.
    """
    arrays = {name: _array(name, each) for name, each in values.items() if isinstance(each, np.ndarray | np.generic)}
    others = {name: each for name, each in values.items() if name not in arrays}
    text = json.dumps({"key": key, "arrays": arrays, "values": others}, separators=(",", ":"))
    line = seal(text.encode())
    if len(line) > LONGEST:
        msg = f"the record {key!r} has {len(line):,} bytes; one may have {LONGEST:,}"
        raise ValueError(msg)
    return line


def seal(content: bytes) -> bytes:
    """A line with the checksum of its content before it."""
    return b"%s %s\n" % (_digest(content), content)


def unseal(line: bytes) -> bytes | None:
    """The content of a line; None if it is not whole."""
    if not line.endswith(b"\n") or line[16:17] != b" " or _digest(line[17:-1]) != line[:16]:
        return None
    return line[17:-1]


def decode(content: bytes) -> tuple[str, Values]:
    """The key and the values of a record; arrays cannot be written to.

    Raises:
        CheckpointError: not a record.
    """
    try:
        found = json.loads(content)
        key, arrays, values = found["key"], found["arrays"], found["values"]
        if not (isinstance(key, str) and isinstance(values, dict) and found.keys() == {"key", "arrays", "values"}):
            msg = "a record has other fields than key, arrays and values"
            raise CheckpointError(msg)
        return key, {**values, **{name: _restored(name, each) for name, each in arrays.items()}}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"a record cannot be read: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=8).hexdigest().encode()


def _array(name: str, array: np.ndarray[Any, Any] | np.generic) -> dict[str, Any]:
    kind = str(array.dtype)
    if kind not in _TYPES:
        msg = f"{name!r} is an array of {kind}; records hold float64 and int64"
        raise TypeError(msg)
    data = np.ascontiguousarray(array, dtype=_TYPES[kind]).tobytes()
    return {"type": kind, "shape": list(array.shape), "data": base64.b64encode(data).decode()}


def _restored(name: str, stored: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    shape = stored["shape"]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        msg = f"{name!r} has the shape {shape!r}"
        raise CheckpointError(msg)
    try:
        data = base64.b64decode(stored["data"], validate=True)
    except binascii.Error as error:
        msg = f"{name!r} is no base64: {error}"
        raise CheckpointError(msg) from error
    if len(data) != 8 * math.prod(shape):
        msg = f"{name!r} has {len(data)} bytes for the shape {shape}"
        raise CheckpointError(msg)
    kind = _TYPES[stored["type"]]
    return np.frombuffer(data, dtype=kind).reshape(shape).astype(kind[1:], copy=False)
