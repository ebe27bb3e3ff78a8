"""Recurrent layers: a hidden unit whose weights are all zero stays at zero, so zeroed weights are a reference of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.passes.verify import relative_error


class Reader(nn.Module):
    """An embedding, a recurrent layer, a classifier."""

    def __init__(self, kind: type[nn.RNNBase], *, layers: int, bidirectional: bool, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.recurrent = kind(16, 24, layers, bidirectional=bidirectional, batch_first=batch_first)  # type: ignore[arg-type]
        self.classify = nn.Linear(48 if bidirectional else 24, 5)

    def forward(self, ids: Tensor) -> Tensor:
        states: Tensor = self.recurrent(self.embed(ids))[0]
        logits: Tensor = self.classify(states.tanh())
        return logits


def zeroed(model: nn.Module, plan: fxprune.Plan) -> nn.Module:
    """The original with every cut slice of every parameter at zero."""
    silenced = copy.deepcopy(model)
    for name, tensor in silenced.named_parameters():
        for dim, kept in plan.slices.get(name, {}).items():
            cut = sorted(set(range(tensor.shape[dim])) - set(kept))
            tensor.data.index_fill_(dim, torch.tensor(cut, dtype=torch.long), 0.0)
    return silenced


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layer(kind: type[nn.RNNBase], layers: int, bidirectional: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Reader(kind, layers=layers, bidirectional=bidirectional, batch_first=batch_first).double().eval()
    ids = torch.randint(0, 20, (4, 7))
    slim = fxprune.compile(model, {"params": "40%"}, example_inputs=ids)
    assert slim.plan.widths["recurrent.weight_ih_l0"][0] < 24
    expected = zeroed(model, slim.plan)(ids)
    assert relative_error(expected, slim.eval()(ids)) < 1e-12
    slim.train()(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in slim.parameters())


def test_projections_are_left_alone() -> None:
    model = nn.LSTM(8, 16, proj_size=4).eval()
    slim = fxprune.compile(model, "100%", example_inputs=torch.randn(5, 2, 8))
    assert not slim.report.groups
