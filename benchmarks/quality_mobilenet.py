"""A network in the style of MobileNetV2 for small images (Sandler et al., CVPR 2018, section 3.3 and table 2).

Inverted residuals: a 1 x 1 convolution that expands, a depthwise 3 x 3 convolution, a linear 1 x 1 convolution that
projects back, and a shortcut between the narrow ends where their shapes agree. As usual for images of 32 x 32, the stem
does not halve the resolution; it is halved three times in all.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

BLOCKS = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 3, 2), (4, 64, 3, 2), (4, 96, 2, 1))
"""Expansion, channels, number of blocks, stride of the first."""

STEM = 16
HEAD = 256


def _normalised(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(outputs)))


def _active(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layers = _normalised(inputs, outputs, kernel, stride=stride, groups=groups)
    layers.add_module("relu", nn.ReLU6())
    return layers


class InvertedResidual(nn.Module):
    """Expand, convolve every channel by itself, project; with a shortcut where input and output have one shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Make a block; without expansion (1) its first convolution is left out."""
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.expand = _active(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _active(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = _normalised(hidden, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[N, inputs, H, W]` to `[N, outputs, H / stride, W / stride]`."""
        output: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + output if self.shortcut else output


class MobileNet(nn.Module):
    """A stem, eleven inverted residuals, a 1 x 1 convolution and a linear classifier: 0.33 million parameters."""

    def __init__(self, in_channels: int = 3, classes: int = 10) -> None:
        """Make the network with fresh weights."""
        super().__init__()
        self.stem = _active(in_channels, STEM, 3)
        blocks: list[nn.Module] = []
        inputs = STEM
        for expansion, channels, number, stride in BLOCKS:
            for index in range(number):
                blocks.append(InvertedResidual(inputs, channels, stride if index == 0 else 1, expansion))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _active(inputs, HEAD, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[N, in_channels, H, W]` to logits `[N, classes]`."""
        hidden = self.pool(self.head(self.blocks(self.stem(images))))
        logits: Tensor = self.classifier(hidden.flatten(1))
        return logits
