"""Blocks from image to image that cut, factor, weigh or rearrange channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.kinds import Image
from tests.randomgraphs.registry import Apply, Draw, Made, activation, block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ChannelShuffle(nn.Module):
    """Transpose the factors of the channel axis."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(groups · rest) to (rest · groups)."""
        batch, channels, height, width = x.shape
        factors = x.view(batch, self.groups, channels // self.groups, height, width)
        return factors.transpose(1, 2).reshape(batch, channels, height, width)


@block(Image)
def shuffle_between_convs(draw: Draw, image: Image) -> Made:
    """As ShuffleNet: grouped convolution, shuffle, grouped convolution."""
    groups = draw.divisor(image.channels, proper=True)
    middle = groups * groups * draw.between(1, 2) if groups <= 3 else groups * draw.between(1, 3)
    first = nn.Conv2d(image.channels, middle, 1, groups=groups)
    second = nn.Conv2d(middle, image.channels, 1, groups=groups)
    return nn.Sequential(first, ChannelShuffle(groups), second), image


@block(Image)
def channel_shuffle(draw: Draw, image: Image) -> Made:
    """A shuffle by itself."""
    return ChannelShuffle(draw.divisor(image.channels, proper=True)), image


class ChunkGate(nn.Module):
    """One half gates the other."""

    def __init__(self, image: Image, features: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(image.channels, 2 * features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A · sigmoid(b)."""
        projected: Tensor = self.project(x)
        value, gate = projected.chunk(2, dim=1)
        return value * torch.sigmoid(gate)


@block(Image)
def chunk_gate(draw: Draw, image: Image) -> Made:
    """Two halves of one convolution."""
    features = draw.one((4, 6, 8, 10))
    return ChunkGate(image, features), image.wide(features)


class SplitBranches(nn.Module):
    """Each part of the channels goes its own way; then they meet again."""

    def __init__(self, sizes: Sequence[int], branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Split, branch, concatenate."""
        parts = x.split(self.sizes, dim=1)
        return torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)], dim=1)


@block(Image)
def split_branches(draw: Draw, image: Image) -> Made:
    """Uneven parts, one of them untouched."""
    if image.channels == 1:
        return nn.Identity(), image
    first = draw.between(1, image.channels - 1)
    out = draw.width()
    branch = nn.Sequential(nn.Conv2d(first, out, 3, padding=1), activation(draw))
    parts = SplitBranches([first, image.channels - first], [branch, nn.Identity()])
    return parts, image.wide(out + image.channels - first)


@block(Image)
def slice_channels(draw: Draw, image: Image) -> Made:
    """Some consecutive channels."""
    size = draw.between(max(1, image.channels // 2), image.channels)
    start = draw.between(0, image.channels - size)
    return Apply(lambda x: x[:, start : start + size]), image.wide(size)


@block(Image)
def select_channel(draw: Draw, image: Image) -> Made:
    """One channel weighs all of them."""
    which = draw.between(0, image.channels - 1)
    return Apply(lambda x: x * torch.sigmoid(x.select(1, which).unsqueeze(1))), image


class HeadScale(nn.Module):
    """One number for each factor of the channel axis."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale by head."""
        heads = self.temperature.shape[0]
        scaled = torch.unflatten(x, 1, (heads, -1)) * self.temperature
        return scaled.flatten(1, 2)


@block(Image)
def head_scale(draw: Draw, image: Image) -> Made:
    """Factored channels."""
    return HeadScale(draw.divisor(image.channels, proper=True)), image


@block(Image)
def mean_over_group(draw: Draw, image: Image) -> Made:
    """The mean of each run of channels."""
    groups = draw.divisor(image.channels, proper=True)
    reductions: tuple[Callable[..., Tensor], ...] = (torch.mean, torch.sum, torch.amax)
    reduction = draw.one(reductions)
    return Apply(lambda x: reduction(x.unflatten(1, (groups, -1)), dim=2)), image.wide(groups)


class SqueezeExcite(nn.Module):
    """Channels weighed by what they hold on average."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X times the sigmoid of a small network on its mean over places."""
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


@block(Image)
def squeeze_excite(draw: Draw, image: Image) -> Made:
    """With a hidden width of its own."""
    return SqueezeExcite(image.channels, draw.between(4, 12)), image


class Scale(nn.Module):
    """A bare parameter on every channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))
        self.register_buffer("offset", torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """X · gamma + offset, a parameter and a buffer."""
        return torch.addcmul(self.get_buffer("offset"), x, self.gamma)


@block(Image)
def image_scale(draw: Draw, image: Image) -> Made:
    """LayerScale, or a whole table of positions."""
    return (Scale(*image.shape) if draw.chance(0.3) else Scale(image.channels, 1, 1)), image


@block(Image)
def pad_channels(draw: Draw, image: Image) -> Made:
    """Zero channels before and after, met by a residual convolution, as in the first residual networks."""
    before, behind = draw.between(0, 3), draw.between(1, 3)
    total = before + image.channels + behind
    return PadShortcut(nn.Conv2d(image.channels, total, 1), before, behind), image.wide(total)


class PadShortcut(nn.Module):
    """A shortcut widened by zeros."""

    def __init__(self, project: nn.Conv2d, before: int, after: int) -> None:
        super().__init__()
        self.project = project
        self.padding = (0, 0, 0, 0, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """The projection plus the padded input."""
        return torch.relu(self.project(x)) + F.pad(x, self.padding)


class SpatialGate(nn.Module):
    """Places weighed by the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """CBAM's spatial attention."""
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(seen))


@block(Image)
def spatial_gate(draw: Draw, image: Image) -> Made:
    """Reductions over channels."""
    del draw
    return SpatialGate(), image


@block(Image)
def pixel_shuffle(draw: Draw, image: Image) -> Made | None:
    """Channels become places."""
    if image.height > 4 or image.width > 4:
        return None
    out = draw.between(2, 6)
    module = nn.Sequential(nn.Conv2d(image.channels, 4 * out, 1), nn.PixelShuffle(2))
    return module, Image(out, 2 * image.height, 2 * image.width)


@block(Image)
def pixel_unshuffle(draw: Draw, image: Image) -> Made | None:
    """Places become channels."""
    del draw
    if image.height % 2 or image.width % 2 or image.channels > 6:
        return None
    return nn.PixelUnshuffle(2), Image(4 * image.channels, image.height // 2, image.width // 2)


@block(Image)
def dense_layer(draw: Draw, image: Image) -> Made | None:
    """New channels beside the old ones."""
    growth = draw.between(2, 6)
    if image.channels + growth > 30:
        return None
    return DenseLayer(image.channels, growth), image.wide(image.channels + growth)


class DenseLayer(nn.Module):
    """As DenseNet: norm, activation, convolution, concatenation."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[x, f(x)]."""
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class ChannelMix(nn.Module):
    """Efficient channel attention: a convolution along the channel axis itself, which pins it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weights from each channel's neighbours."""
        mean = x.mean((2, 3)).unsqueeze(1)
        weights = torch.sigmoid(self.conv(mean)).transpose(1, 2).unsqueeze(-1)
        return x * weights


@block(Image)
def channel_mix(draw: Draw, image: Image) -> Made:
    """ECA."""
    del draw
    return ChannelMix(), image
