"""Damaged and hostile checkpoints: refused with a message, nothing read outside the folder, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

import fxprune
from fxprune import CheckpointError, InputError
from fxprune.shards.folder import read_folder
from fxprune.shards.stored import read_shard
from tests.shards.helpers import UNIFORM, cut, llama, save

INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(llama(), tmp_path / "source")


def change_index(source: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((source / INDEX).read_text())
    change(data)
    (source / INDEX).write_text(json.dumps(data))


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/b.safetensors",
        "..\\b.safetensors",
        "pytorch_model.bin",
        3,
        "",
    ],
)
def test_an_index_that_points_elsewhere(file: object, source: Path, tmp_path: Path) -> None:
    change_index(source, lambda data: data["weight_map"].update({"lm_head.weight": file}))
    with pytest.raises(CheckpointError, match=r"which is not the name of a \.safetensors file beside it"):
        fxprune.apply_to_checkpoint(cut(UNIFORM).plan, source, tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_index_that_does_not_fit(source: Path) -> None:
    change_index(source, lambda data: data["weight_map"].pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"the index puts 'model\.norm\.weight' into no file"):
        read_folder(source)
    change_index(source, lambda data: data["weight_map"].update({"model.norm.weight": "model-9.safetensors"}))
    with pytest.raises(CheckpointError, match=r"model-9\.safetensors is missing"):
        read_folder(source)
    for text in ("[]", "{", '{"weight_map": 3}', "[" * 100_000):
        (source / INDEX).write_text(text)
        with pytest.raises(CheckpointError, match=r"JSON|weight_map"):
            read_folder(source)


def test_a_tensor_in_two_files(source: Path) -> None:
    import numpy as np

    save_file({"lm_head.weight": np.ones(2)}, source / "more.safetensors")
    change_index(source, lambda data: data["weight_map"].update({"other": "more.safetensors"}))
    with pytest.raises(CheckpointError, match="a checkpoint holds it once"):
        read_folder(source)


def write(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HEADERS: dict[str, tuple[object, bytes]] = {
    "short": ({"a": entry("F32", [4], 0, 16)}, b"\0" * 12),
    "long": ({"a": entry("F32", [4], 0, 16)}, b"\0" * 20),
    "outside": ({"a": entry("F32", [4], 1 << 40, (1 << 40) + 16)}, b"\0" * 16),
    "overlap": ({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, b"\0" * 24),
    "gap": ({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 20, 36)}, b"\0" * 36),
    "size": ({"a": entry("F32", [5], 0, 16)}, b"\0" * 16),
    "negative": ({"a": entry("F32", [-4], 0, 16)}, b"\0" * 16),
    "huge": ({"a": entry("F32", [1 << 40, 1 << 40], 0, 16)}, b"\0" * 16),
    "type": ({"a": entry("F31", [4], 0, 16)}, b"\0" * 16),
    "twice": (b"{%s,%s}" % ((b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',) * 2), b"\0" * 4),
    "list": ([], b""),
    "text": (b"no json", b""),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_shard(write(tmp_path / "model.safetensors", *HEADERS[kind]))


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for length in (1 << 20, 1 << 50, (1 << 64) - 1):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(CheckpointError, match="no whole safetensors file"):
            read_shard(path)


def test_no_checkpoint_or_several(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="holds 0 indices"):
        read_folder(tmp_path / "bin")
    (source / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="holds 2 indices"):
        read_folder(source)


def test_a_configuration_that_names_no_class_of_transformers(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    for name in ("os", "AutoModel", "EvilModel", "__builtins__"):
        (source / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
        with pytest.raises(CheckpointError, match="none of Transformers"):
            fxprune.apply_to_checkpoint(cut(UNIFORM).plan, source, tmp_path / "cut")


def test_code_in_the_folder_is_not_run(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
    (source / "evil.py").write_text("raise SystemExit(3)")
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json cannot say"):
        fxprune.apply_to_checkpoint(cut(UNIFORM).plan, source, tmp_path / "cut")
