"""ResNet-20 for small images (He et al. 2015, section 4.2: three stages of three blocks, 16, 32 and 64 channels).

Where a stage changes the shape, its shortcut is a 1 x 1 convolution with batch normalisation (the paper's option B).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

__all__ = ["BasicBlock", "ResNet20"]


def _normalised(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(out_channels)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Make a block; `stride` belongs to its first convolution and its shortcut."""
        super().__init__()
        self.first = _normalised(in_channels, out_channels, 3, stride)
        self.second = _normalised(out_channels, out_channels, 3, 1)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else _normalised(in_channels, out_channels, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, out_channels, H / stride, W / stride]`."""
        hidden = self.second(self.relu(self.first(images)))
        output: Tensor = self.relu(hidden + self.shortcut(images))
        return output


class ResNet20(nn.Module):
    """Nineteen 3 x 3 convolutions and a linear classifier."""

    def __init__(self, in_channels: int = 1, classes: int = 10, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        """Make the network with fresh weights; `widths` are the channels of its three stages."""
        super().__init__()
        first, second, third = widths
        self.stem = _normalised(in_channels, first, 3, 1)
        self.relu = nn.ReLU()
        self.stage1 = _stage(first, first, 1)
        self.stage2 = _stage(first, second, 2)
        self.stage3 = _stage(second, third, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[N, in_channels, H, W]` to logits `[N, classes]`."""
        hidden = self.relu(self.stem(images))
        hidden = self.stage3(self.stage2(self.stage1(hidden)))
        logits: Tensor = self.classifier(self.pool(hidden).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride),
        BasicBlock(out_channels, out_channels, 1),
        BasicBlock(out_channels, out_channels, 1),
    )
