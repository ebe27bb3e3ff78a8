"""Particular attacks, each with what is said about it."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fxprune
from fxprune import CheckpointError
from fxprune.files.archive import PIECE
from tests.files.mutation import members, packed
from tests.files.nets import compiled


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "slim.fxprune"
    fxprune.save(compiled("nested")[0], path)
    return path.read_bytes()


def load(content: bytes, folder: Path) -> None:
    (folder / "slim.fxprune").write_bytes(content)
    fxprune.load(folder / "slim.fxprune")


def edited(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its graph.json changed."""
    entries = members(content)
    data = json.loads(entries["graph.json"])
    change(data)
    entries["graph.json"] = json.dumps(data).encode()
    return packed(entries)


def first(data: dict[str, Any], operation: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in data["nodes"] if each["op"] == operation)
    return found


def test_what_is_repacked_still_loads(content: bytes, tmp_path: Path) -> None:
    load(packed(members(content)), tmp_path)
    load(edited(content, lambda data: None), tmp_path)


INJECTION = "x=__import__('os').system('touch evil')"
CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda d: first(d, "call").update(target="aten::from_file.default"),
        "calls 'aten::from_file.default', which no file",
    ),
    (lambda d: first(d, "call").update(target="aten::set_.source_Tensor"), "which no file may"),
    (lambda d: first(d, "call").update(target="aten::add.out"), "which no file may"),
    (lambda d: first(d, "call").update(target="aten::add.overloads"), "this version of PyTorch does not have"),
    (lambda d: first(d, "call").update(target="prims::fma.default"), "which no file may"),
    (lambda d: first(d, "call").update(target="operator.attrgetter"), "which no file may"),
    (lambda d: first(d, "call").update(target="os.system"), "which no file may"),
    (lambda d: first(d, "call").update(name=INJECTION), "no plain name"),
    (lambda d: first(d, "call").update(name="self"), "no plain name"),
    (lambda d: first(d, "call").update(kwargs={INJECTION: 1}), "no plain name"),
    (lambda d: first(d, "call").update(kwargs={"unknown": 1}), "arguments that it does not take"),
    (lambda d: first(d, "call").update(args=[1] * 30), "arguments that it does not take"),
    (lambda d: first(d, "call").update(args=[{"node": 10_000}]), "which is not before it"),
    (lambda d: first(d, "call").update(args=[{"dtype": "__class__"}]), "which fxprune does not know"),
    (lambda d: first(d, "call").update(args=[{"device": "cpu');evil('"}]), "which fxprune does not know"),
    (lambda d: first(d, "call").update(hook="os.system"), "unknown field 'hook'"),
    (lambda d: first(d, "input").update(target=INJECTION), "no plain name"),
    (lambda d: first(d, "module").update(target="__class__"), "which fxprune does not know"),
    (lambda d: first(d, "module").update(args=[1]), "other arguments than one value"),
    (lambda d: d["nodes"].append(d["nodes"][0]), "output is not its last node"),
    (lambda d: d["nodes"].clear(), "the graph is empty"),
    (lambda d: d.update({"class": "X: pass\nimport os\nclass Y"}), "no plain name"),
    (lambda d: d["signature"]["arguments"].__setitem__(0, INJECTION), "no plain name"),
    (lambda d: d["signature"].update(arguments=["scale", "scale"]), "same name"),
    (lambda d: d["signature"]["inputs"]["tuple"][1]["dict"][0].__setitem__(0, INJECTION), "no plain name"),
    (lambda d: d["signature"].update(outputs=None), "more or fewer values"),
    (lambda d: d["modules"][1].update(kind="Module"), "which fxprune does not know"),
    (lambda d: d["modules"][1].update(kind="Linear", settings={"in_features": 8}), "lacks the field"),
    (lambda d: d["modules"][1].update(path='a"b'), "no name of a module"),
    (lambda d: d["modules"][1].update(path="a.b"), "not below its parent"),
    (lambda d: d["modules"].append({"path": "forward", "training": True}), "cannot be built"),
    (lambda d: d["modules"].append({"path": "graph", "training": True}), "a name that slim modules use"),
    (lambda d: d["modules"].append({"path": "meta", "training": True}), "a name that slim modules use"),
    (lambda d: d["modules"].append({"path": "\uff3f\uff3fclass\uff3f\uff3f", "training": True}), "no name of a module"),
    (lambda d: d["modules"].append({"path": "up.inner", "same_as": "up"}), "which cannot be"),
    (
        lambda d: d["tensors"].append({"name": "up.more", "kind": "parameter", "same_as": "up.weight"}),
        "Linear up has no up.more",
    ),
    (lambda d: d["tensors"].append({**d["tensors"][0], "name": "more"}), "lacks the tensor 'more'"),
    (lambda d: d["tensors"][0].update(kind="buffer"), "a parameter where the module has a buffer"),
    (lambda d: d["tensors"][0].update(shape=[2**40, 2**40]), "its plan leaves"),
    (lambda d: d["tensors"][0].update(order=[0, 0]), "each dimension once"),
    (lambda d: d["tensors"].pop(0), "which the file does not have"),
    (lambda d: d["tensors"].insert(1, d["tensors"][0]), "there twice"),
    (lambda d: d.update(schema=99), "Update fxprune"),
    (lambda d: d.update(schema=0), "no longer reads"),
    (lambda d: d.update(code="import os"), "unknown field 'code'"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_graphs_that_attack(
    content: bytes,
    change: Callable[[dict[str, Any]], object],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        load(edited(content, change), tmp_path)
    assert os.listdir(tmp_path) == ["slim.fxprune"]


def test_modules_cannot_contain_each_other(content: bytes, tmp_path: Path) -> None:
    cycle = [
        {"path": "a", "training": True},
        {"path": "b", "training": True},
        {"path": "a.x", "same_as": "b"},
        {"path": "b.y", "same_as": "a"},
    ]
    with pytest.raises(CheckpointError, match="not below its parent"):
        load(edited(content, lambda data: data["modules"].extend(cycle)), tmp_path)


def test_texts_stay_texts(content: bytes, tmp_path: Path) -> None:
    """A text with quotes and newlines is an argument of an operation, and no more."""
    text = "'\"\n\\'); import os #"

    def change(data: dict[str, Any]) -> None:
        call = first(data, "call")
        call.update(target="aten::einsum.default", args=[text, []])

    load(edited(content, change), tmp_path)
    loaded = fxprune.load(tmp_path / "slim.fxprune")
    assert text in {argument for node in loaded.graph.nodes for argument in node.args}


@pytest.mark.parametrize("depth", [65, 5_000, 1_000_000])
def test_deep_nesting(content: bytes, depth: int, tmp_path: Path) -> None:
    entries = members(content)
    for name in ("plan.json", "graph.json", "report.json"):
        with pytest.raises(CheckpointError, match="nested"):
            load(packed({**entries, name: b"[" * depth + b"]" * depth}), tmp_path)


def test_a_directory_that_promises_too_much(content: bytes, tmp_path: Path) -> None:
    end = content.rindex(b"PK\x05\x06")
    size = struct.pack("<L", 2**31 - 1)
    with pytest.raises(CheckpointError, match="no intact file"):
        load(content[: end + 12] + size + content[end + 16 :], tmp_path)
    padded = bytearray(content[:end]) + b"\0" * (PIECE + 2)
    count = struct.pack("<LL", PIECE + 1, end)
    with pytest.raises(CheckpointError, match="no intact file"):
        load(bytes(padded) + content[end : end + 12] + count + content[end + 20 :], tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.fxprune"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plan.json", b" " * 100_000_000)
    with pytest.raises(CheckpointError, match="is compressed"):
        fxprune.load(path)


def test_what_is_no_regular_file(tmp_path: Path, content: bytes) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, said in ((tmp_path / "fifo", "no regular file"), (tmp_path, "cannot be read|no regular file")):
        with pytest.raises(CheckpointError, match=said):
            fxprune.load(path)
    for path in (tmp_path / "missing", tmp_path / "fifo"):
        with pytest.raises(CheckpointError):
            fxprune.restore(compiled("nested")[1], path)
    with pytest.raises(CheckpointError, match="No such file"):
        fxprune.load(tmp_path / "missing")
    (tmp_path / "slim.fxprune").write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "slim.fxprune")
    assert fxprune.load(tmp_path / "link").plan.widths


def test_plans_and_scores_are_read_with_the_same_care(tmp_path: Path) -> None:
    slim, _, _ = compiled("sequential")
    slim.plan.save(tmp_path / "plan.json")
    assert fxprune.Plan.load(tmp_path / "plan.json") == slim.plan
    fxprune.save(slim, tmp_path / "slim.fxprune")
    assert fxprune.Plan.load(tmp_path / "slim.fxprune") == slim.plan
    for text in ("[" * 100_000, '{"schema": 1, "schema": 1}', "\ud800"):
        (tmp_path / "plan.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(CheckpointError, match="holds no plan"):
            fxprune.Plan.load(tmp_path / "plan.json")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CheckpointError, match="no regular file"):
        fxprune.Scores.load(tmp_path / "fifo")
    with pytest.raises(CheckpointError, match="no regular file"):
        fxprune.Plan.load(tmp_path / "fifo")
