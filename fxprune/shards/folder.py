"""A checkpoint's folder: its safetensors files, the index over them, and what else lies there.

Names in the index are names of files in the folder and nothing else: no separators, no `..`. Nothing is unpickled, and
files that hold weights in other formats are left out of what is copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxprune.errors import CheckpointError, InputError
from fxprune.shards.stored import Shard, read_shard

INDEX = ".safetensors.index.json"
LARGEST_JSON = 256 << 20
"""Bytes that an index or a configuration may have: some hundred times the largest there are."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".index.json", ".pkl")
"""Endings of files that hold weights, or speak of files that do."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A checkpoint on disk.

    Attributes:
        path: of the folder.
        shards: its safetensors files.
        index: name of the index file, or None for a single file.
        metadata: what the index says beside the map.
        others: names of files to be copied along: configuration, tokenizer, code.
        left: names of files and folders that are not.
    """

    path: Path
    shards: tuple[Shard, ...]
    index: str | None
    metadata: Mapping[str, Any]
    others: tuple[str, ...]
    left: tuple[str, ...]


def read_folder(path: Path) -> Folder:
    """Read everything but the tensors.

    Raises:
        InputError: there is no such folder, or no safetensors checkpoint in it, or several.
        CheckpointError: the index or a header is damaged, or they contradict each other.
    """
    if not path.is_dir():
        msg = f"{path} is no folder; pass the folder of a checkpoint, with model.safetensors or its index"
        raise InputError(msg)
    names = sorted(each.name for each in path.iterdir())
    indices = [name for name in names if name.endswith(INDEX)]
    singles = [name for name in names if name.endswith(".safetensors")]
    if len(indices) > 1 or (not indices and len(singles) != 1):
        msg = (
            f"{path} holds {len(indices)} indices (*{INDEX}) and {len(singles)} safetensors files; expected one index or "
            "one file. Pass a folder with one checkpoint in this format"
        )
        raise InputError(msg)
    metadata, weight_map = _read_index(path / indices[0]) if indices else ({}, None)
    files = singles if weight_map is None else sorted(set(weight_map.values()))
    shards = tuple(read_shard(path / name) for name in files)
    _check_map(shards, weight_map)
    others = tuple(n for n in names if (path / n).is_file() and not n.endswith(WEIGHTS) and not n.startswith("."))
    left = tuple(name for name in names if name not in {*others, *files, *indices})
    return Folder(path, shards, indices[0] if indices else None, metadata, others, left)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: it is none, or larger than any.
    """
    if path.stat().st_size > LARGEST_JSON:
        msg = f"{path} has {path.stat().st_size:,} bytes, more than any such file needs; it is not read"
        raise CheckpointError(msg)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no JSON: {error}"
        raise CheckpointError(msg) from error
    if not isinstance(found, dict):
        msg = f"{path} holds a JSON {type(found).__name__}, expected an object"
        raise CheckpointError(msg)
    return found


def _read_index(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    data = read_json(path)
    weight_map, metadata = data.get("weight_map"), data.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        msg = f"{path} has no proper weight_map and metadata; it is damaged"
        raise CheckpointError(msg)
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_plain(file):
            msg = f"{path} puts {name!r} into {file!r}, which is not the name of a .safetensors file beside it"
            raise CheckpointError(msg)
    return metadata, weight_map


def _is_plain(file: str) -> bool:
    return (
        file.endswith(".safetensors")
        and not file.startswith(".")
        and not any(each in file for each in "/\\:\0")
        and file == Path(file).name
    )


def _check_map(shards: tuple[Shard, ...], weight_map: Mapping[str, str] | None) -> None:
    """Every tensor is where the index says, and nowhere else."""
    found: dict[str, str] = {}
    for shard in shards:
        for each in shard.tensors:
            if each.name in found:
                msg = f"{each.name!r} is in {found[each.name]} and in {shard.path.name}; a checkpoint holds it once"
                raise CheckpointError(msg)
            found[each.name] = shard.path.name
    if weight_map is not None and found != weight_map:
        name = next(name for name in {**weight_map, **found} if weight_map.get(name) != found.get(name))
        msg = (
            f"the index puts {name!r} into {weight_map.get(name, 'no file')}, it is in {found.get(name, 'none')}; the "
            "checkpoint is damaged or not whole"
        )
        raise CheckpointError(msg)
