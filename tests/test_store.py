"""The store of finished work: what comes back, what a killed process leaves, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fxprune.errors import CheckpointError
from fxprune.records import decode, encode, seal, unseal
from fxprune.store import FIRST_LINE, Store

PRINT = {"model": "a", "weights": "b", "data": "c"}
VALUES = {"sum": np.array([[0.1, -0.0], [math.inf, 1e-320]]), "at": np.array([3, -(2**62)]), "note": ["x", None, 0.1]}


def same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    return type(left) is type(right) and repr(left) == repr(right)


def alike(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)


def filled(path: Path, count: int = 3) -> None:
    with Store.open(path, PRINT) as store:
        for number in range(count):
            store.put(f"key {number}", {**VALUES, "number": number})


numbers = arrays.arrays(
    st.sampled_from([np.float64, np.int64]), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.text(), st.dictionaries(st.text(), numbers | json_values, max_size=4))
def test_a_record_comes_back_to_the_last_bit(key: str, values: dict[str, Any]) -> None:
    content = unseal(encode(key, values))
    assert content is not None
    found, back = decode(content)
    assert found == key
    assert alike(back, values)


def test_what_is_put_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    filled(path)
    with Store.open(path, PRINT) as store:
        found = store.get("key 1")
        assert found is not None
        assert alike(found, {**VALUES, "number": 1})
        assert store.get("another") is None
        store.put("key 1", {"number": 10})
    with Store.open(path, PRINT) as store:
        assert store.get("key 1") == {"number": 10}
        assert len(store.known) == 3


def test_fresh_and_remembered_values_are_alike(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"pair": (1, 2), "array": np.array([0.1])}

    with Store.open(tmp_path / "one", PRINT) as store:
        first = store.recall("a", compute)
    with Store.open(tmp_path / "one", PRINT) as store:
        second = store.recall("a", compute)
    assert len(calls) == 1
    assert first["pair"] == second["pair"] == [1, 2]
    for found in (first, second):
        with pytest.raises(ValueError, match="read-only"):
            found["array"][0] = 1.0


def test_half_a_line_at_the_end_is_cut_off(tmp_path: Path) -> None:
    """Wherever the process was killed while it wrote: what had been finished is there, and work goes on."""
    path = tmp_path / "search.ckpt"
    filled(path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = np.cumsum([len(line) for line in lines])
    for length in (*range(0, len(whole), 41), *(end + step for end in ends for step in (-1, 0, 1)))[:-1]:
        path.write_bytes(whole[:length])
        finished = max(int((ends <= length).sum()) - 2, 0)
        with Store.open(path, PRINT) as store:
            assert list(store.known) == [f"key {number}" for number in range(finished)]
            store.put("more", {"a": 1})
        with Store.open(path, PRINT) as store:
            assert len(store.known) == finished + 1
        if length < ends[1]:
            assert path.read_bytes().startswith(lines[0] + lines[1])


def test_a_damaged_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    filled(path)
    content = bytearray(path.read_bytes())
    content[-20:-1] = bytes(19)
    path.write_bytes(content)
    with Store.open(path, PRINT) as store:
        assert list(store.known) == ["key 0", "key 1"]


def test_damage_anywhere_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    filled(path)
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n")
    for at in range(0, last, 7):
        content = bytearray(whole)
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged|no checkpoint|another version"):
            Store.open(path, PRINT)
        assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"PK\x03\x04 a model", b"\x00" * 64, b"fxprune is nice", b"{}\n"])
def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint of fxprune, and is left as it is"):
        Store.open(path, PRINT)
    assert path.read_bytes() == content


def test_another_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    path.write_bytes(b"fxprune checkpoint 7\n")
    with pytest.raises(CheckpointError, match=r"another version of fxprune \('7'\)"):
        Store.open(path, PRINT)


def test_another_run_is_named_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    filled(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"another run: weights differs\. Pass another path"):
        Store.open(path, {**PRINT, "weights": "other"})
    with pytest.raises(CheckpointError, match=r"data, seed differ; a loader that shuffles"):
        Store.open(path, {**PRINT, "data": "other", "seed": "0"})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "record",
    [
        {"key": "a", "arrays": {"x": {"type": "float64", "shape": [10**18], "data": "AAAAAAAAAAA="}}, "values": {}},
        {"key": "a", "arrays": {"x": {"type": "float64", "shape": [-1], "data": "AAAAAAAAAAA="}}, "values": {}},
        {"key": "a", "arrays": {"x": {"type": "float64", "shape": [True], "data": "AAAAAAAAAAA="}}, "values": {}},
        {"key": "a", "arrays": {"x": {"type": "object", "shape": [1], "data": "AAAAAAAAAAA="}}, "values": {}},
        {"key": "a", "arrays": {"x": {"type": "float64", "shape": [1], "data": "?"}}, "values": {}},
        {"key": "a", "arrays": {"x": {"type": "float64", "shape": 1, "data": ""}}, "values": {}},
        {"key": "a", "arrays": [], "values": {}},
        {"key": 3, "arrays": {}, "values": {}},
        {"key": "a", "arrays": {}, "values": []},
        {"key": "a", "arrays": {}, "values": {}, "run": "me"},
        {"key": "a"},
        [],
        "[" * 100_000,
    ],
)
def test_hostile_records_are_refused(tmp_path: Path, record: Any) -> None:
    """The checksum is right, the content is not."""
    content = record.encode() if isinstance(record, str) else json.dumps(record).encode()
    path = tmp_path / "search.ckpt"
    path.write_bytes(FIRST_LINE + seal(json.dumps(PRINT).encode()) + seal(content))
    with pytest.raises(CheckpointError, match=r"damaged: a record|damaged: 'x'"):
        Store.open(path, PRINT)


@pytest.mark.parametrize("value", [np.zeros(2, np.float32), np.array(["a"]), {1, 2}, object()])
def test_other_values_are_refused(value: object) -> None:
    store = Store()
    with pytest.raises(TypeError):
        store.put("a", {"x": value})
    assert store.get("a") is None


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    with Store.open(path, PRINT) as store:
        store.put("a", {})
        with pytest.raises(CheckpointError, match="in use by another process"):
            Store.open(path, PRINT)
        store.put("b", {})
    with Store.open(path, PRINT) as store:
        assert list(store.known) == ["a", "b"]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be opened: No such file"):
        Store.open(tmp_path / "nowhere" / "search.ckpt", PRINT)
