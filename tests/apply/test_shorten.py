"""Dropped blocks in the user's own class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import CannotApply


class Block(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index, self.width = index, 16
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, seen: dict[int, int]) -> Tensor:
        seen[self.index] = self.index
        return torch.as_tensor(x + self.second(torch.relu(self.first(x))))


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(at) for at in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen: dict[int, int] = {}
        for block in self.blocks:
            x = block(x, seen)
        assert list(seen) == list(range(len(self.blocks)))
        return torch.as_tensor(self.head(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.inner(x))


class Attributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Residual(), Residual(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.b(self.a(x))))


def test_a_list_gets_shorter_and_positions_move_up() -> None:
    torch.manual_seed(0)
    model, x = Listed().eval(), torch.randn(2, 16)
    slim = fxprune.compile(model, {"params": "40%"}, example_inputs=x, drop=["blocks.1", "blocks.2"])
    made = fxprune.apply(slim, model)
    assert [block.index for block in made.blocks] == [0, 1]
    assert [block.index for block in model.blocks] == [0, 1, 2, 3]
    assert set(made.state_dict()) == {
        name for name in model.state_dict() if not name.startswith(("blocks.2", "blocks.3"))
    }
    torch.testing.assert_close(made(x), slim.eval()(x))
    assert torch.equal(made.state_dict()["blocks.1.second.bias"], slim.state_dict()["blocks.3.second.bias"])
    sliced = fxprune.apply(slim.plan, model, example_inputs=x)
    torch.testing.assert_close(sliced(x), made(x))
    made(x).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sequence_gets_shorter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Sequential(Residual(), Residual(), Residual()), nn.Linear(16, 3)).eval()
    x = torch.randn(2, 8)
    slim = fxprune.compile(model, {"params": "99%"}, example_inputs=x, drop=["1.0"])
    made = fxprune.apply(slim, model)
    assert [name for name in made.state_dict() if "bias" in name] == [
        "0.bias",
        "1.0.inner.bias",
        "1.1.inner.bias",
        "2.bias",
    ]
    torch.testing.assert_close(made(x), slim.eval()(x))


def test_blocks_that_are_in_no_list_are_refused() -> None:
    model, x = Attributes().eval(), torch.randn(2, 16)
    slim = fxprune.compile(model, {"params": "99%"}, example_inputs=x, drop=["a"])
    with pytest.raises(CannotApply, match="the plan drops a, which is in no list of modules"):
        fxprune.apply(slim, model)
