from __future__ import annotations

import torch
from torch import nn

from fxprune.demo.resnet20 import ResNet20


def test_it_is_the_resnet20_of_the_paper() -> None:
    model = ResNet20(in_channels=3)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    shortcuts = [layer for layer in convolutions if layer.kernel_size == (1, 1)]
    extra = sum(layer.weight.numel() + 2 * layer.out_channels for layer in shortcuts)
    assert len(convolutions) - len(shortcuts) == 19
    assert sum(parameter.numel() for parameter in model.parameters()) - extra == 269_722  # He et al. 2015: 0.27 million


def test_output_is_one_logit_for_each_class() -> None:
    assert ResNet20(classes=7).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
