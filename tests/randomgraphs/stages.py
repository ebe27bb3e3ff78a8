"""Blocks from image to image with several branches, and convolutions in one and three dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.channels import ChannelShuffle
from tests.randomgraphs.images import make_norm
from tests.randomgraphs.kinds import Image, Tokens
from tests.randomgraphs.registry import Apply, Draw, Made, activation, block


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are worked on, then all are shuffled (ShuffleNet v2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Chunk, branch, concatenate, shuffle."""
        passed, worked = x.chunk(2, dim=1)
        out: Tensor = self.shuffle(torch.cat((passed, self.branch(worked)), dim=1))
        return out


@block(Image)
def shuffle_unit(draw: Draw, image: Image) -> Made | None:
    """One unit, or two."""
    if image.channels % 2:
        return None
    units = [ShuffleUnit(image.channels) for _ in range(draw.between(1, 2))]
    return nn.Sequential(*units), image


class Branches(nn.Module):
    """Several branches side by side, concatenated or added, with a norm over all."""

    def __init__(self, branches: list[nn.Module], norm: nn.Module, *, add: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norm = norm
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        """Inception, or a residual of many branches."""
        outs = [branch(x) for branch in self.branches]
        joined: Tensor = torch.stack(outs, 0).sum(0) if self.add else torch.cat(outs, dim=1)
        out: Tensor = self.norm(joined)
        return out


@block(Image)
def branches(draw: Draw, image: Image) -> Made:
    """Widths of their own if concatenated; the norm may group across the boundaries."""
    add, count = draw.chance(0.4), draw.between(2, 3)
    common = draw.width()
    widths = [common if add else draw.between(3, 8) for _ in range(count)]
    made = [nn.Sequential(nn.Conv2d(image.channels, each, 1), activation(draw)) for each in widths]
    if draw.chance():
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        made[0] = nn.Sequential(pool, nn.Conv2d(image.channels, widths[0], 1))
    total = common if add else sum(widths)
    return Branches(list(made), make_norm(draw, total), add=add), image.wide(total)


class Hierarchy(nn.Module):
    """Each part of the channels sees the result of the one before it (Res2Net)."""

    def __init__(self, parts: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(parts - 1))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Split, walk, concatenate."""
        first, *rest = torch.split(x, self.width, 1)
        outs, last = [first], first
        for part, conv in zip(rest, self.convs, strict=True):
            last = torch.relu(conv(last + part))
            outs.append(last)
        return torch.cat(outs, 1)


@block(Image)
def hierarchy(draw: Draw, image: Image) -> Made:
    """After a projection to parts of one width."""
    parts, width = draw.between(2, 4), draw.between(2, 5)
    total = parts * width
    layers = [nn.Conv2d(image.channels, total, 1), Hierarchy(parts, width), nn.Conv2d(total, image.channels, 1)]
    return nn.Sequential(*layers), image


class Ghost(nn.Module):
    """Cheap copies of the channels beside them, then as many as are wanted (GhostNet)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half = (out + 1) // 2
        self.primary = nn.Conv2d(channels, half, 1)
        self.cheap = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        """[a, cheap(a)][:out]."""
        primary = torch.relu(self.primary(x))
        return torch.cat([primary, self.cheap(primary)], dim=1)[:, : self.out]


@block(Image)
def ghost(draw: Draw, image: Image) -> Made:
    """An odd width cuts one copy off."""
    out = draw.width()
    return Ghost(image.channels, out), image.wide(out)


class ResponseNorm(nn.Module):
    """Global response normalisation: channels' norms over places, divided by their mean over channels (ConvNeXt v2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """X + beta + gamma · x · n."""
        x = x.permute(0, 2, 3, 1)
        length = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        out = x + torch.addcmul(self.beta, self.gamma, x * (length / (length.mean(dim=-1, keepdim=True) + 1e-6)))
        return out.permute(0, 3, 1, 2)


@block(Image)
def response_norm(draw: Draw, image: Image) -> Made:
    """A statistic of statistics."""
    del draw
    return ResponseNorm(image.channels), image


class GlobalContext(nn.Module):
    """One softmax over places, one context for all (GCNet)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, 1)
        self.down = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GroupNorm(1, hidden), nn.PReLU(hidden))
        self.up = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X + f(Σ softmax x)."""
        weights = self.mask(x).flatten(2).softmax(-1)
        context = torch.matmul(x.flatten(2), weights.transpose(1, 2)).unsqueeze(-1)
        out: Tensor = x + self.up(self.down(context))
        return out


@block(Image)
def global_context(draw: Draw, image: Image) -> Made:
    """A contraction over places."""
    return GlobalContext(image.channels, draw.between(3, 8)), image


@block(Image)
def gated_conv(draw: Draw, image: Image) -> Made:
    """F.glu over channels, or the larger of each pair (maxout), or PReLU with a slope for each."""
    out = draw.width()
    make = nn.Conv2d(image.channels, 2 * out, 3, padding=1)
    how = draw.one(("glu", "maxout", "prelu"))
    if how == "prelu":
        return nn.Sequential(nn.Conv2d(image.channels, out, 1), nn.PReLU(out), nn.Dropout2d(0.2)), image.wide(out)
    if how == "glu":
        return nn.Sequential(make, nn.GLU(dim=1)), image.wide(out)
    order = draw.one(((out, 2), (2, out)))
    return nn.Sequential(make, Apply(lambda x: x.unflatten(1, order).amax(dim=order.index(2) + 1))), image.wide(out)


@block(Image)
def separable_conv(draw: Draw, image: Image) -> Made:
    """A depthwise convolution with a multiplier, dilated; then pointwise, normed."""
    multiplier = draw.between(1, 3) if image.channels <= 8 else 1
    middle, out = image.channels * multiplier, draw.width()
    depthwise = nn.Conv2d(image.channels, middle, 3, padding=2, dilation=2, groups=image.channels, bias=draw.chance())
    return nn.Sequential(depthwise, nn.Conv2d(middle, out, 1), make_norm(draw, out)), image.wide(out)


class Depth(nn.Module):
    """A new axis of depth, made by a shift, seen by three-dimensional layers, pooled away."""

    def __init__(self, channels: int, out: int, *, transposed: bool) -> None:
        super().__init__()
        self.conv = (
            nn.ConvTranspose3d(channels, out, 3, padding=1) if transposed else nn.Conv3d(channels, out, 3, padding=1)
        )
        self.norm = nn.BatchNorm3d(out)
        self.pool = nn.AdaptiveAvgPool3d((1, None, None))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to [batch, out, height, width]."""
        volume = torch.stack([x, x.roll(1, -1)], dim=2)
        out: Tensor = self.pool(torch.relu(self.norm(self.conv(volume)))).squeeze(2)
        return out


@block(Image)
def depth(draw: Draw, image: Image) -> Made | None:
    """conv3d and its kin."""
    if image.height * image.width > 36:
        return None
    out = draw.between(3, 8)
    return Depth(image.channels, out, transposed=draw.chance(0.3)), image.wide(out)


class Sequence(nn.Module):
    """Layers along a sequence, features as channels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Transpose, work, transpose."""
        out: Tensor = self.layers(x.transpose(1, 2))
        return out.transpose(1, 2)


@block(Tokens)
def sequence_convs(draw: Draw, tokens: Tokens) -> Made | None:
    """conv1d, norms, pools, conv_transpose1d."""
    if tokens.length < 3 or tokens.length > 12:
        return None
    groups = draw.divisor(tokens.features)
    middle = groups * draw.between(1, max(1, 16 // groups))
    first = nn.Conv1d(tokens.features, middle, 3, padding=1, groups=groups)
    norm = draw.one((nn.BatchNorm1d(middle), nn.GroupNorm(groups, middle), nn.InstanceNorm1d(middle)))
    out = draw.width()
    if draw.chance():
        last: nn.Module = nn.Sequential(nn.AvgPool1d(2), nn.ConvTranspose1d(middle, out, 2, stride=2))
        return Sequence(first, norm, nn.GELU(), last), Tokens(tokens.length // 2 * 2, out)
    pool = draw.one((nn.MaxPool1d(3, 1, 1), nn.AdaptiveAvgPool1d(tokens.length)))
    return Sequence(first, norm, pool, nn.Conv1d(middle, out, 1)), tokens.wide(out)


@block(Tokens)
def causal_conv(draw: Draw, tokens: Tokens) -> Made:
    """Padding on the left, a gate from the same convolution (WaveNet)."""
    return GatedCausalConv(tokens.features, draw.width()), tokens


class GatedCausalConv(nn.Module):
    """Two halves: tanh and sigmoid."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(features, 2 * hidden, 2)
        self.out = nn.Conv1d(hidden, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X + f(x)."""
        value, gate = self.conv(F.pad(x.mT, (1, 0))).split(self.out.in_channels, dim=1)
        out: Tensor = self.out(torch.tanh(value) * torch.sigmoid(gate))
        return x + out.mT
