"""Copies of modules warn of nothing, also where a graph holds the structure of nested outputs."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

import fxprune
from fxprune.passes.layout import lay_out
from fxprune.passes.silence import silenced_model


class Nested(nn.Module):
    """Outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        found = self.down(self.up(x).relu())
        return {"found": [found, found * 2]}


def test_copies_warn_of_nothing() -> None:
    model, x = Nested().eval(), torch.randn(2, 8)
    slim = fxprune.compile(model, 0.6, example_inputs=x, progress=False)
    silenced = silenced_model(fxprune.analyze(model, x))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert copy.deepcopy(slim)(x).keys() == copy.deepcopy(silenced)(x).keys() == {"found"}
        lay_out(slim, ((x,), {}))
