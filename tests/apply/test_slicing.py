"""Slicing by a plan alone against slicing by axes, for plain and nested choices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune import CheckpointError
from fxprune.apply import slice_tensor
from fxprune.plan import slices_of
from tests.randomgraphs import Draw, Seeded
from tests.semantics.plans import random_cut

MODELS = {
    "grouped": (nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 36, 1, groups=4), nn.Conv2d(36, 5, 1)), (2, 3, 4, 4)),
    "transposed": (
        nn.Sequential(nn.Conv2d(3, 24, 1), nn.ConvTranspose2d(24, 36, 1, groups=4), nn.Conv2d(36, 5, 1)),
        (2, 3, 4, 4),
    ),
    "attention": (nn.TransformerEncoderLayer(24, 4, 48, batch_first=True).eval(), (2, 5, 24)),
    "plain": (nn.Sequential(nn.Linear(6, 20), nn.LayerNorm(20), nn.Linear(20, 3)), (2, 6)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_a_plan_alone_cuts_as_the_axes_say(name: str, seed: int) -> None:
    model, shape = MODELS[name]
    analysis = fxprune.analyze(model, torch.randn(shape))
    cut = random_cut(analysis.groups, Draw(Seeded(seed)))
    slices = slices_of(analysis.program, analysis.propagation, cut)
    for tensor_name, tensor in analysis.program.tensors.items():
        axes = analysis.propagation.tensors.get(analysis.program.canonical(tensor_name))
        if axes is not None:
            expected = cut.slice(tensor.detach(), axes)
            assert torch.equal(slice_tensor(tensor.detach(), slices.get(tensor_name, {})), expected), tensor_name


def test_a_tensor_of_another_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not have"):
        slice_tensor(torch.zeros(3, 3), {0: [0, 5]})
    with pytest.raises(CheckpointError, match="does not have"):
        slice_tensor(torch.zeros(3), {1: [0]})
    with pytest.raises(CheckpointError, match="blocks"):
        slice_tensor(torch.zeros(3, 3), {1: [[0], [1]]})
