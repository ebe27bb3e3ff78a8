"""Cutting bytes piece by piece against slicing tensors in memory, for plain and nested choices of any kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fxprune.apply import slice_tensor
from fxprune.plan import Indices
from fxprune.shards import cutting
from fxprune.shards.fates import _fate
from fxprune.shards.renumber import renumbered
from fxprune.shards.stored import read_shard
from fxprune.shards.writing import digest_of, write_shard

TYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float64, torch.bool)


@st.composite
def choices(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[int, Indices]:
    """Kept indices of some dimensions, in runs or not; one of them nested at most."""

    def some(size: int) -> list[int]:
        unit = draw(st.sampled_from([each for each in (1, 2, 4) if size % each == 0]))
        blocks = draw(st.sets(st.integers(0, size // unit - 1), min_size=1))
        return sorted(block * unit + at for block in blocks for at in range(unit))

    dims = draw(st.sets(st.integers(0, len(shape) - 1)))
    found: dict[int, Indices] = {dim: some(shape[dim]) for dim in sorted(dims)}
    nested = draw(st.sampled_from([None, *range(len(shape))])) if len(shape) > 1 else None
    if nested is not None:
        along = 1 if nested == 0 else 0
        rows = len(found.get(along, range(shape[along])))
        blocks = draw(st.sampled_from([each for each in range(1, rows + 1) if rows % each == 0]))
        count = draw(st.integers(1, shape[nested]))
        found[nested] = [sorted(draw(st.permutations(range(shape[nested])))[:count]) for _ in range(blocks)]
    return found


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 12), min_size=1, max_size=4), dtype=st.sampled_from(TYPES))
def test_pieces_are_the_slices(
    data: st.DataObject, shape: list[int], dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    slices = data.draw(choices(tuple(shape)))
    torch.manual_seed(0)
    tensors = {"a": torch.randn(3), "b": torch.randn(shape).to(dtype), "c": torch.zeros(2, 0)}
    folder = tmp_path_factory.mktemp("cut")
    (folder / "old.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    shard = read_shard(folder / "old.safetensors")
    fates = [_fate(each, each.name, slices if each.name == "b" else {}) for each in shard.tensors]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE", data.draw(st.sampled_from([16, 64, 1 << 20])))
        patch.setattr(cutting, "GAP", data.draw(st.sampled_from([0, 8, 1 << 20])))
        written = write_shard(shard, fates, folder / "new.safetensors")
    assert written == digest_of(folder / "new.safetensors")
    found = load((folder / "new.safetensors").read_bytes())
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensors["b"].element_size()]
    expected = slice_tensor(tensors["b"].view(bits), slices)
    assert torch.equal(found["b"].view(bits), expected)
    assert torch.equal(found["a"], tensors["a"])
    assert found["c"].shape == (2, 0)
    assert read_shard(folder / "new.safetensors").metadata == {"format": "pt"}


def test_rows_are_read_in_bands() -> None:
    rows = np.array([0, 1, 2, 9, 10])
    assert cutting.bands(rows, cutting.GAP) == [(0, 3), (3, 5)]
    assert cutting.bands(rows, 1) == [(0, 5)]
    assert cutting.bands(np.arange(4), cutting.PIECE) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize(
    ("name", "dropped", "expected"),
    [
        ("layers.5.a", ["layers.2", "layers.7"], "layers.4.a"),
        ("layers.1.a", ["layers.2"], "layers.1.a"),
        ("encoder.3.blocks.4.w", ["encoder.1", "encoder.3.blocks.0"], "encoder.2.blocks.3.w"),
        ("4.weight", ["1"], "3.weight"),
        ("layers.5", ["other.2", "layers.last"], "layers.5"),
    ],
)
def test_layers_move_up(name: str, dropped: list[str], expected: str) -> None:
    assert renumbered(name, dropped) == expected


def test_a_file_that_got_shorter_is_not_read_past_its_end(tmp_path: Path) -> None:
    from fxprune import CheckpointError

    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"a": torch.zeros(1000)}))
    shard = read_shard(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="before the end of a tensor"):
        write_shard(shard, [_fate(each, each.name, {}) for each in shard.tensors], tmp_path / "new")
