"""What a safetensors file says it holds: names, types, shapes and places, with no byte of a tensor read.

The format is 8 bytes with the length n of a header, n bytes of JSON (`{name: {dtype, shape, data_offsets}}`, and
`__metadata__`), then the tensors one after the other (https://github.com/huggingface/safetensors). The safetensors library
checks it (lengths, offsets without gap or overlap, types); what is computed with here is checked once more, so that no
reader is sent outside the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from fxprune.errors import CheckpointError

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of one element by the format's name of its type; types of less than a byte are left out."""
TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
"""The format's name of a type -> torch's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file.

    Attributes:
        name: its name there.
        dtype: the format's name of its type.
        shape: its sizes.
        start: first byte, from the beginning of the file.
        size: number of bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def type(self) -> str:
        """Torch's name of the type; the format's own where torch has none."""
        return TYPES.get(self.dtype, self.dtype)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a checkpoint.

    Attributes:
        path: of the file.
        tensors: in the order of their places.
        metadata: what the header says beside them.
    """

    path: Path
    tensors: tuple[Stored, ...]
    metadata: Mapping[str, str]


def read_shard(path: Path) -> Shard:
    """Read the header of a safetensors file.

    Raises:
        CheckpointError: it is none, or its header does not fit the file.
    """
    _check_by_library(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_repetition)
        metadata = header.pop("__metadata__", {})
        tensors = [_stored(name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"the header of {path} is damaged: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    tensors.sort(key=lambda each: (each.start, each.size))
    _check_places(path, tensors, 8 + length)
    return Shard(path, tuple(tensors), metadata)


def _check_by_library(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        msg = f"{path} is missing or no file; the checkpoint is not whole: download or copy it again"
        raise CheckpointError(msg)
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} is no whole safetensors file: {error}"
        raise CheckpointError(msg) from error


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "a name occurs twice"
        raise ValueError(msg)
    return found


def _stored(name: str, entry: Mapping[str, Any], data: int) -> Stored:
    start, stop = entry["data_offsets"]
    shape = entry["shape"]
    if not all(isinstance(each, int) and each >= 0 for each in (start, stop - start, *shape)):
        msg = f"{name!r} has no proper shape or place"
        raise ValueError(msg)
    return Stored(name, str(entry["dtype"]), tuple(shape), data + start, stop - start)


def _check_places(path: Path, tensors: Sequence[Stored], data: int) -> None:
    """One after the other, each as long as its shape says, to the end of the file."""
    end = data
    for each in tensors:
        size = prod(each.shape) * BYTES[each.dtype] if each.dtype in BYTES else each.size
        if each.start != end or each.size != size:
            msg = f"{path}: {each.name!r} ({each.dtype} {list(each.shape)}) is not where its header says"
            raise CheckpointError(msg)
        end += each.size
    if end != path.stat().st_size:
        msg = f"{path} has {path.stat().st_size} bytes, its header speaks of {end}; it is damaged or not whole"
        raise CheckpointError(msg)
