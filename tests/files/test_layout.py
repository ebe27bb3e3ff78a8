"""Zips that other readers would read otherwise, and headers of tensors that lie: what is said of each."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

import fxprune
from fxprune import CheckpointError
from tests.files.mutation import members, packed
from tests.files.nets import compiled


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As `save` writes it: sizes of 64 bits in front of every member."""
    path = tmp_path_factory.mktemp("saved") / "slim.fxprune"
    fxprune.save(compiled("nested")[0], path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def plain(saved: bytes) -> bytes:
    """The same, as other tools write it."""
    return packed(members(saved))


def load(content: bytes, folder: Path) -> None:
    (folder / "slim.fxprune").write_bytes(content)
    fxprune.load(folder / "slim.fxprune")


def placed(content: bytes, name: str) -> tuple[int, int]:
    """Where a member begins, and where the directory speaks of it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.getinfo(name).header_offset, content.rindex(name.encode()) - 46


def patched(content: bytes, at: int, layout: str, *values: Any) -> bytes:
    made = bytearray(content)
    struct.pack_into(layout, made, at, *values)
    return bytes(made)


def test_other_bytes_before_and_behind(plain: bytes, saved: bytes, tmp_path: Path) -> None:
    for content in (plain, saved):
        for made in (b"#!/bin/sh\n" + content, b"PK\x03\x04" + content):
            with pytest.raises(CheckpointError, match=r"plan\.json comes after other bytes"):
                load(made, tmp_path)
        with pytest.raises(CheckpointError, match="goes on after its directory"):
            load(content + b"\0" * 22, tmp_path)
        with pytest.raises(CheckpointError, match="has a comment"):
            load(content[:-2] + b"\x04\0more", tmp_path)


def test_a_program_with_a_zip_behind_it(saved: bytes, tmp_path: Path) -> None:
    """All offsets count from the program's first byte, as they do in archives that extract themselves."""
    buffer = io.BytesIO(b"\x7fELF" + b"\0" * 200)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, content in members(saved).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    with pytest.raises(CheckpointError, match="comes after other bytes"):
        load(buffer.getvalue(), tmp_path)


def test_bytes_between(plain: bytes, saved: bytes, tmp_path: Path) -> None:
    """A hidden second graph in front of the one that the directory speaks of, and bytes before the directory."""
    start, _ = placed(plain, "graph.json")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the repeated name
        for name, content in members(saved).items():
            if name == "graph.json":
                archive.writestr(zipfile.ZipInfo(name), b"{}")
                archive.filelist.pop()
            archive.writestr(zipfile.ZipInfo(name), content)
    assert placed(buffer.getvalue(), "graph.json")[0] > start
    with pytest.raises(CheckpointError, match=r"graph\.json comes after other bytes"):
        load(buffer.getvalue(), tmp_path)
    end = plain.rindex(b"PK\x05\x06")
    directory = plain.index(b"PK\x01\x02")
    moved = plain[:directory] + b"hidden" + plain[directory:end]
    with pytest.raises(CheckpointError, match="between its members and its directory"):
        load(moved + patched(plain[end:], 16, "<L", directory + 6), tmp_path)


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (6, "<H", 1),  # encrypted
        (6, "<H", 8),  # sizes come after the bytes
        (8, "<H", 8),  # compressed
        (14, "<L", 7),  # checksum
        (18, "<L", 3),  # sizes
        (22, "<L", 2**31),
        (22, "<L", 2**32 - 1),
        (26, "<H", 4),  # length of the name
        (28, "<H", 5),  # length of what is behind it
        (30, "<1s", b"G"),
    ],
)
def test_a_member_that_says_otherwise_than_the_directory(
    at: int, layout: str, value: Any, plain: bytes, saved: bytes, tmp_path: Path
) -> None:
    for content in (plain, saved):
        start, _ = placed(content, "graph.json")
        changed = patched(content, start + at, layout, value)
        if changed != content:
            with pytest.raises(CheckpointError, match=r"graph\.json is described in two ways"):
                load(changed, tmp_path)


@pytest.mark.parametrize("sizes", [(0, 0), (2**63, 2**63), (2**64 - 1, 2**64 - 1), (1, 2**40)])
def test_sizes_of_64_bits_in_front_of_a_member(sizes: tuple[int, int], saved: bytes, tmp_path: Path) -> None:
    start, _ = placed(saved, "graph.json")
    with pytest.raises(CheckpointError, match=r"graph\.json is described in two ways"):
        load(patched(saved, start + 30 + len("graph.json") + 4, "<2Q", *sizes), tmp_path)


@pytest.mark.parametrize("size", [2**40, 2**63, 2**64 - 1])
def test_sizes_of_64_bits_in_the_directory(size: int, plain: bytes, tmp_path: Path) -> None:
    _, told = placed(plain, "scores.safetensors")
    behind, end = told + 46 + len("scores.safetensors"), plain.rindex(b"PK\x05\x06")
    made = bytearray(plain)
    struct.pack_into("<2L", made, told + 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", made, told + 30, 20)
    struct.pack_into("<L", made, end + 12, struct.unpack_from("<L", plain, end + 12)[0] + 20)
    made[behind:behind] = struct.pack("<2H2Q", 1, 16, size, size)
    with pytest.raises(CheckpointError, match=r"scores\.safetensors ends beyond the file"):
        load(bytes(made), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["PLAN.JSON", "Plan.json", "plan.json/", "./plan.json", "plan.\uff4ason", "plan.json\u0301", "plan.j\u017fon"],
)
def test_names_that_some_systems_take_for_another(name: str, saved: bytes, tmp_path: Path) -> None:
    """Other case, other Unicode forms, paths to the same place: beside the member and in its place."""
    entries = members(saved)
    with pytest.raises(CheckpointError, match="unexpected member"):
        load(packed({**entries, name: entries["plan.json"]}), tmp_path)
    with pytest.raises(CheckpointError, match="unexpected member"):
        load(packed({name if each == "plan.json" else each: own for each, own in entries.items()}), tmp_path)


def retold(saved: bytes, name: str, **told: Any) -> bytes:
    """The file whose weights' header says something else of one tensor."""
    entries = members(saved)
    own = entries["weights.safetensors"]
    length = int.from_bytes(own[:8], "little")
    header = json.loads(own[8 : 8 + length])
    header[name] |= told
    text = json.dumps(header).encode()
    entries["weights.safetensors"] = len(text).to_bytes(8, "little") + text + own[8 + length :]
    return packed(entries)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"data_offsets": [0, 896]}, "overlap, or leave bytes between them"),
        ({"data_offsets": [-896, 0]}, "out of range"),
        ({"data_offsets": [896, 0]}, "bytes for F32"),
        ({"data_offsets": [0, 2**63]}, "out of range"),
        ({"data_offsets": [0, 10**30]}, "out of range"),
        ({"data_offsets": [0, 896.0]}, "not a whole number"),
        ({"data_offsets": [0, 896, 896]}, "may have 2"),
        ({"data_offsets": [False, 896]}, "not a whole number"),
        ({"shape": [8, 28, 1]}, "expected F32"),
        ({"shape": [2**31, 2**33]}, "bytes for F32"),
        ({"shape": [-8, -28]}, "out of range"),
        ({"dtype": "f32"}, "does not know"),
    ],
)
def test_headers_of_tensors_that_lie(told: dict[str, Any], said: str, saved: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(retold(saved, "down.weight", **told), tmp_path)
