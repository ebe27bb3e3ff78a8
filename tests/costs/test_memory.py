"""Live bytes at every point of the graph against running it and counting storages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.costs.columns import Columns
from fxprune.costs.memory import find_storages, undominated
from fxprune.costs.sizes import Sizes
from fxprune.program import Program
from tests.costs.count import original, weight_bytes
from tests.costs.eager import live_bytes
from tests.costs.nets import NETS, REAL, slow, torchvision_model


def _predicted(program: Program) -> list[int]:
    live = np.zeros(len(program.nodes), dtype=int)
    for storage in find_storages(program, Sizes(program, Columns(()))):
        live[storage.start : storage.end + 1] += int(storage.size.coefficient)
    return [int(bytes_) for bytes_ in live]


def _check(model: nn.Module, x: Tensor) -> None:
    program = capture(model.eval(), x)
    measured, predicted = live_bytes(program), _predicted(program)
    calls = [at for at, node in enumerate(program.nodes) if node.op in ("call_function", "output")]
    assert [measured[at] for at in calls] == [predicted[at] for at in calls]
    assert original(model, x)["memory"] == weight_bytes(program) + max(measured)


@pytest.mark.parametrize("name", NETS)
def test_small_models(name: str) -> None:
    build, shape = NETS[name]
    _check(build(), torch.randn(shape))


@pytest.mark.parametrize("name", ["resnet18", "small densenet", *map(slow, REAL)])
def test_torchvision(name: str) -> None:
    size = 224 if name == "vit_b_16" else 64
    _check(torchvision_model(name), torch.randn(1, 3, size, size))


def test_encoder_layer_with_its_dropouts_and_copies() -> None:
    _check(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), torch.randn(2, 5, 16))


class Odd(nn.Module):
    """Views, in-place operations, several results, results that nothing reads, dtypes, an input that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.arange(6))
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b = (x @ self.weight.t()).chunk(2, dim=-1)
        a = a.contiguous().mul_(2)
        values, positions = b.sort(dim=-1)
        kept = torch.nn.functional.dropout(values, 0.5, self.training).expand(2, *values.shape)
        wide = (x.double() + self.table).to(torch.float64)
        return kept, wide.reshape(-1)[:3], positions.transpose(0, 1).reshape(-1), a, x


def test_aliases() -> None:
    _check(Odd(), torch.randn(4, 6))


def test_undominated_rows() -> None:
    rows = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 2.0]])
    assert sorted(undominated(rows).tolist()) == [[1.0, 2.0], [2.0, 1.0]]
