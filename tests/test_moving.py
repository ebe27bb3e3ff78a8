"""A slim module that is moved or converted."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import fxprune

DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


class Positions(nn.Module):
    """Makes positions where its input is, as the language models of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 32)
        self.position = nn.Embedding(16, 32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        out: Tensor = self.down(torch.relu(self.up(x)))
        return out


class Normed(nn.Module):
    """Computes a norm in float32, and goes back to its input's type."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 64)
        self.down = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        wide = x.to(torch.float32)
        out: Tensor = self.down((wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype))
        return out


def devices_of(slim: fxprune.SlimModule) -> set[str]:
    found = [each for node in slim.graph.nodes for each in (*node.args, *node.kwargs.values())]
    return {each.type for each in found if isinstance(each, torch.device)}


@pytest.mark.parametrize("device", DEVICES)
def test_what_the_graph_makes_is_made_where_the_module_is(device: str) -> None:
    tokens = torch.arange(10).reshape(2, 5)
    slim = fxprune.compile(Positions().eval(), "60%", example_inputs=tokens)
    assert devices_of(slim) == {"cpu"}
    outer = nn.Sequential(copy.deepcopy(slim)).to(device)  # moved as a part of something
    moved = outer[0]
    assert isinstance(moved, fxprune.SlimModule)
    assert devices_of(moved) == {device}
    assert devices_of(slim) == {"cpu"}
    output = moved(tokens.to(device))
    assert output.device.type == device
    if device != "meta":
        back = copy.deepcopy(moved).cpu()
        torch.testing.assert_close(back(tokens), slim(tokens), rtol=0, atol=0)
        torch.testing.assert_close(output.cpu(), slim(tokens), rtol=1e-3, atol=1e-4)


def test_types_that_the_graph_names_are_warned_of() -> None:
    slim = fxprune.compile(Normed().eval(), "60%", example_inputs=torch.randn(2, 8))
    with pytest.warns(UserWarning, match=r"captured in torch\.float32 and \d+ of its operations name that type"):
        copy.deepcopy(slim).half()


def test_a_graph_that_names_no_type_is_converted() -> None:
    slim = fxprune.compile(Positions().eval(), "60%", example_inputs=torch.arange(10).reshape(2, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = copy.deepcopy(slim).bfloat16()
    assert converted(torch.arange(10).reshape(2, 5)).dtype == torch.bfloat16
