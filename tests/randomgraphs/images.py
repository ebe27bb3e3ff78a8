"""Blocks from image to image that have convolutions or norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations

from tests.randomgraphs.kinds import Image
from tests.randomgraphs.registry import Apply, Draw, Made, activation, block


def after(image: Image, conv: nn.Conv2d) -> Image:
    """The image that a convolution makes."""
    sizes = [
        (size + 2 * int(conv.padding[axis]) - conv.kernel_size[axis]) // conv.stride[axis] + 1
        for axis, size in enumerate((image.height, image.width))
    ]
    return Image(conv.out_channels, *sizes)


def make_conv(draw: Draw, image: Image, channels: int | None = None, *, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    """A convolution with a kernel of 1 or 3."""
    kernel = draw.one((1, 3))
    padding, bias = kernel // 2, draw.chance()
    return nn.Conv2d(image.channels, channels or draw.width(), kernel, stride, padding, groups=groups, bias=bias)


@block(Image)
def conv(draw: Draw, image: Image) -> Made:
    """A convolution, sometimes strided where the image is large."""
    made = make_conv(draw, image, stride=2 if image.height >= 6 and draw.chance(0.2) else 1)
    return made, after(image, made)


@block(Image)
def grouped_conv(draw: Draw, image: Image) -> Made:
    """Groups with as many outputs each as chance gives."""
    groups = draw.divisor(image.channels, proper=True)
    made = make_conv(draw, image, groups * draw.between(1, max(1, 24 // groups)), groups=groups)
    return made, after(image, made)


@block(Image)
def depthwise_conv(draw: Draw, image: Image) -> Made:
    """One or two outputs a channel."""
    multiplier = 2 if image.channels <= 12 and draw.chance(0.3) else 1
    made = make_conv(draw, image, image.channels * multiplier, groups=image.channels)
    return made, after(image, made)


@block(Image)
def conv_norm_act(draw: Draw, image: Image) -> Made:
    """The classic triple; the activation may work in place, and the norm may, too, be by group or instance."""
    made = make_conv(draw, image)
    out = after(image, made)
    return nn.Sequential(made, make_norm(draw, out.channels), activation(draw, inplace=True)), out


def make_norm(draw: Draw, channels: int) -> nn.Module:
    """Any norm of channels."""
    groups = draw.divisor(channels, proper=True)
    return draw.one(
        (
            nn.BatchNorm2d(channels),
            nn.BatchNorm2d(channels, affine=False),
            nn.GroupNorm(groups, channels),
            nn.GroupNorm(groups, channels, affine=False),
            nn.GroupNorm(1, channels),
            nn.InstanceNorm2d(channels, affine=draw.chance()),
            ChannelsLastNorm(channels),
            ChannelRMSNorm(channels),
        )
    )


@block(Image)
def image_norm(draw: Draw, image: Image) -> Made:
    """A norm by itself."""
    return make_norm(draw, image.channels), image


class ChannelsLastNorm(nn.Module):
    """LayerNorm over channels, as ConvNeXt has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Channels last and back."""
        normal: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normal.permute(0, 3, 1, 2)


class ChannelRMSNorm(nn.Module):
    """Root mean square over channels, by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """X / √mean(x²)."""
        return x * torch.rsqrt(x.pow(2).mean(dim=1, keepdim=True) + 1e-3) * self.scale


class Residual(nn.Module):
    """X + f(x), sometimes written in place on f(x)."""

    def __init__(self, inner: nn.Module, *, inplace: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        out: Tensor = self.inner(x)
        if not self.inplace:
            return x + out
        out += x
        return out


@block(Image)
def bottleneck(draw: Draw, image: Image) -> Made:
    """A residual branch that narrows or widens."""
    first = make_conv(draw, image)
    middle = after(image, first)
    second = make_conv(draw, middle, image.channels)
    inner = nn.Sequential(first, make_norm(draw, middle.channels), activation(draw, inplace=True), second)
    return Residual(inner, inplace=draw.chance(0.3)), image


@block(Image)
def inverted_residual(draw: Draw, image: Image) -> Made:
    """Expand, depthwise, project."""
    wide = draw.width()
    inner = nn.Sequential(
        nn.Conv2d(image.channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU6(inplace=True),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
        nn.Hardswish(),
        nn.Conv2d(wide, image.channels, 1),
    )
    return Residual(inner), image


class Twice(nn.Module):
    """One module called two times: its input and output are one axis."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Once more."""
        return torch.tanh(self.inner(torch.relu(self.inner(x))))


@block(Image)
def conv_called_twice(draw: Draw, image: Image) -> Made:
    """A recurrent convolution."""
    return Twice(make_conv(draw, image, image.channels)), image


class StandardisedConv(nn.Conv2d):
    """Weight standardisation, computed from the parameter at every call."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution with each filter's weights standardised."""
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-4)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@block(Image)
def standardised_conv(draw: Draw, image: Image) -> Made:
    """Statistics over what remains of each filter."""
    out = draw.width()
    return StandardisedConv(image.channels, out, 3, padding=1), image.wide(out)


@block(Image)
def weight_normed_conv(draw: Draw, image: Image) -> Made:
    """Length and direction as separate parameters."""
    made = nn.Conv2d(image.channels, draw.width(), 1)
    return parametrizations.weight_norm(made), image.wide(made.out_channels)


@block(Image)
def transposed_conv(draw: Draw, image: Image) -> Made | None:
    """Upsampling, sometimes by group."""
    if image.height > 6 or image.width > 6:
        return None
    groups = draw.divisor(image.channels) if draw.chance(0.4) else 1
    out = groups * draw.between(1, max(1, 24 // groups))
    kernel, stride = draw.one(((2, 1), (3, 1), (2, 2), (1, 1)))
    made = nn.ConvTranspose2d(image.channels, out, kernel, stride, groups=groups, bias=draw.chance())
    return made, Image(out, (image.height - 1) * stride + kernel, (image.width - 1) * stride + kernel)


class EinsumConv(nn.Module):
    """A 1 x 1 convolution said by einsum."""

    def __init__(self, image: Image, out: int) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.zeros(out, image.channels))

    def forward(self, x: Tensor) -> Tensor:
        """Contract channels."""
        return torch.einsum("bchw,dc->bdhw", x, self.mixing)


@block(Image)
def einsum_conv(draw: Draw, image: Image) -> Made:
    """A contraction without a layer."""
    out = draw.width()
    return EinsumConv(image, out), image.wide(out)


@block(Image)
def two_convs_by_pool(draw: Draw, image: Image) -> Made | None:
    """Pooling, then a convolution, then back to size by interpolation."""
    if min(image.height, image.width) < 4:
        return None
    made = make_conv(draw, image)
    mode = draw.one(("nearest", "bilinear"))
    pool = draw.one((nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)))
    size = (image.height, image.width)
    resize = Apply(lambda x: F.interpolate(x, size=size, mode=mode))
    return nn.Sequential(pool, make_conv_like(made), resize), image.wide(made.out_channels)


def make_conv_like(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with a kernel of 1, which fits any image."""
    return nn.Conv2d(conv.in_channels, conv.out_channels, 1)


@block(Image)
def pool(draw: Draw, image: Image) -> Made | None:
    """Half the size."""
    if min(image.height, image.width) < 4:
        return None
    made = draw.one((nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2, ceil_mode=True)))
    rounding = 1 if getattr(made, "ceil_mode", False) else 0
    return made, Image(image.channels, (image.height + rounding) // 2, (image.width + rounding) // 2)
