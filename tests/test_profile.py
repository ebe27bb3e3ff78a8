"""The profile: rows add up to the totals, and the totals to what torch counts."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fxprune.profile import FOOTER, Profile, profile
from tests.costs.count import counted, parameters
from tests.costs.nets import NETS


def _small() -> Profile:
    return profile(NETS["attention"][0](), torch.randn(1, 7, 6))


@pytest.mark.parametrize("name", NETS)
def test_rows_add_up(name: str) -> None:
    build, shape = NETS[name]
    model, x = build().eval(), torch.randn(shape)
    found = profile(model, x)
    assert sum(row.flops for row in found.rows) == found.flops == counted(model, x)
    assert sum(row.params for row in found.rows) == found.params == parameters(model)
    assert found.memory == found.weights + found.activations
    assert len({row.name for row in found.rows}) == len(found.rows)


def test_a_leaf_module_is_a_row() -> None:
    rows = {row.name: row for row in _small().rows}
    assert rows["up"].type == "Linear"
    assert rows["up"].shape == (1, 7, 40)
    assert rows["up"].flops == 2 * 7 * 24 * 40
    assert rows["up"].params == 25 * 40
    assert rows["up"].activation == 7 * 40 * 4


def test_operations_of_the_model_itself_are_rows() -> None:
    rows = {row.name: row for row in _small().rows}
    assert rows["scaled_dot_product_attention"].type == "scaled_dot_product_attention"
    assert rows["x"].type == "input"
    assert rows["(not read by forward)"].params == 56
    assert not [row for row in rows.values() if row.type in ("view", "transpose")]


def test_a_module_that_is_called_twice_is_one_row() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(self.layer(x))
            return out

    (row,) = [row for row in profile(Twice(), torch.randn(3, 4)).rows if row.name == "layer"]
    assert (row.flops, row.params) == (2 * 2 * 3 * 16, 20)


def test_a_model_that_is_one_layer() -> None:
    rows = profile(nn.Linear(8, 4), torch.randn(2, 8)).rows
    assert [row.type for row in rows] == ["input", "Linear"]
    assert rows[1].name == "(the model itself)"


def test_text() -> None:
    text = str(_small())
    assert " ".join(FOOTER.split()[:12]) in " ".join(text.split())
    assert "13,440" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_json() -> None:
    found = _small()
    data = json.loads(found.to_json())
    assert data["flops"] == found.flops
    assert data["memory"] == found.memory
    assert data["rows"][0]["shape"] == [1, 7, 6]


def test_largest_first() -> None:
    found = _small()
    assert found.largest_first()[0].flops == max(row.flops for row in found.rows)
    assert found.largest_first("params")[0].params == max(row.params for row in found.rows)


def test_a_model_without_flops() -> None:
    found = profile(nn.ReLU(), torch.randn(2, 3))
    assert found.flops == 0
    assert "ReLU" in str(found)
