"""Blocks that take tensors apart, move their elements and put them together again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.images import Residual
from tests.randomgraphs.kinds import Image, Tokens
from tests.randomgraphs.registry import Apply, Draw, Made, block

if TYPE_CHECKING:
    from collections.abc import Callable


class Windows(nn.Module):
    """As Swin: roll, cut into windows, mix within each, put together, roll back."""

    def __init__(self, inner: nn.Module, window: int, shift: int) -> None:
        super().__init__()
        self.inner = inner
        self.window = window
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to the same."""
        batch, channels, height, width = x.shape
        size = self.window
        places = x.permute(0, 2, 3, 1)
        if self.shift:
            places = torch.roll(places, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = places.view(batch, height // size, size, width // size, size, channels)
        windows = windows.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, channels)
        mixed = self.inner(windows).view(-1, height // size, width // size, size, size, channels)
        places = mixed.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)
        if self.shift:
            places = torch.roll(places, shifts=(self.shift, self.shift), dims=(1, 2))
        return places.permute(0, 3, 1, 2)


@block(Image)
def windows(draw: Draw, image: Image) -> Made | None:
    """Windows of two by two."""
    if image.height % 2 or image.width % 2:
        return None
    hidden = draw.width()
    inner = Residual(nn.Sequential(nn.Linear(image.channels, hidden), nn.GELU(), nn.Linear(hidden, image.channels)))
    return Windows(inner, 2, draw.between(0, 1)), image


class PatchMerging(nn.Module):
    """Four neighbours side by side, normed, projected."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Half as high, half as wide."""
        x = x.permute(0, 2, 3, 1)
        corners = [x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]]
        out: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return out.permute(0, 3, 1, 2)


@block(Image)
def patch_merging(draw: Draw, image: Image) -> Made | None:
    """Strided slices along places."""
    if image.height % 2 or image.width % 2:
        return None
    out = draw.width()
    return PatchMerging(image.channels, out), Image(out, image.height // 2, image.width // 2)


@block(Image)
def space_to_depth(draw: Draw, image: Image) -> Made | None:
    """By views; the new factor of the channels stands before or after the old one."""
    if image.height % 2 or image.width % 2 or image.channels > 8:
        return None
    order = draw.one(((0, 1, 3, 5, 2, 4), (0, 3, 5, 1, 2, 4)))
    size = (image.height // 2, image.width // 2)

    def rearrange(x: Tensor) -> Tensor:
        parts = x.view(-1, image.channels, size[0], 2, size[1], 2)
        return parts.permute(order).reshape(-1, 4 * image.channels, *size)

    return Apply(rearrange), Image(4 * image.channels, *size)


class UnfoldConv(nn.Module):
    """A convolution as a product with unfolded patches."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.mixing = nn.Linear(9 * channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """Unfold, multiply, view."""
        patches = F.unfold(x, 3, padding=1)
        mixed: Tensor = self.mixing(patches.transpose(1, 2)).transpose(1, 2)
        return torch.unflatten(mixed, 2, x.shape[-2:])


@block(Image)
def unfold_conv(draw: Draw, image: Image) -> Made | None:
    """im2col."""
    if image.channels > 12:
        return None
    out = draw.width()
    return UnfoldConv(image.channels, out), image.wide(out)


class FoldUp(nn.Module):
    """Each place becomes a patch."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.mixing = nn.Conv2d(channels, 4 * out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Project, fold."""
        _, _, height, width = x.shape
        return F.fold(self.mixing(x).flatten(2), (2 * height, 2 * width), 2, stride=2)


@block(Image)
def fold_up(draw: Draw, image: Image) -> Made | None:
    """col2im."""
    if image.height > 4 or image.width > 4:
        return None
    out = draw.between(2, 8)
    return FoldUp(image.channels, out), Image(out, 2 * image.height, 2 * image.width)


@block(Image)
def slide(draw: Draw, image: Image) -> Made | None:
    """Overlapping windows along a spatial axis."""
    if image.width < 4:
        return None
    del draw
    return Apply(lambda x: x.unfold(3, 3, 1).mean(-1)), Image(image.channels, image.height, image.width - 2)


def channel_index(draw: Draw, size: int, count: int) -> Tensor:
    """Positions along an axis, repetitions allowed."""
    return torch.tensor([draw.between(0, size - 1) for _ in range(count)])


class Pick(nn.Module):
    """Channels at positions in a buffer."""

    def __init__(self, positions: Tensor, how: str) -> None:
        super().__init__()
        self.register_buffer("positions", positions)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """By index_select, an index, or gather."""
        positions = self.get_buffer("positions")
        if self.how == "index_select":
            return x.index_select(1, positions)
        if self.how == "index":
            return x[:, positions]
        return x.gather(1, positions.view(1, -1, 1, 1).expand(x.shape[0], -1, *x.shape[2:]))


@block(Image)
def pick_channels(draw: Draw, image: Image) -> Made:
    """Constant positions."""
    count = draw.between(2, 8)
    positions = channel_index(draw, image.channels, count)
    return Pick(positions, draw.one(("index_select", "index", "gather"))), image.wide(count)


@block(Tokens)
def pick_tokens(draw: Draw, tokens: Tokens) -> Made:
    """Positions of the sequence by constants, or its best by a score."""
    count = draw.between(2, tokens.length)
    if draw.chance():
        positions = channel_index(draw, tokens.length, count)
        return Apply(lambda x: x[:, positions]), Tokens(count, tokens.features)
    return TopTokens(tokens.features, count), Tokens(count, tokens.features)


class TopTokens(nn.Module):
    """The tokens of the highest score."""

    def __init__(self, features: int, count: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Gathered by computed positions."""
        scores = self.score(x).squeeze(-1)
        values, positions = scores.topk(self.count, dim=1)
        best = x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return best * torch.sigmoid(values).unsqueeze(-1)


def ordered_mixes() -> tuple[Callable[[Tensor], Tensor], ...]:
    """Functions that depend on the order or on the ranks along the channels."""
    return (
        lambda x: x.sort(dim=1).values,
        lambda x: x + x.flip(1),
        lambda x: x + x.cumsum(1).tanh(),
        lambda x: x * x.softmax(1),
        lambda x: x - x.max(dim=1, keepdim=True).values,
        lambda x: x * (x.argmax(1, keepdim=True) + 1),
        lambda x: F.pad(x.diff(dim=1), (0, 0, 0, 0, 1, 0)),
        lambda x: x.roll(1, 1).log_softmax(1),
    )


@block(Image)
def ordered_channels(draw: Draw, image: Image) -> Made:
    """What pins the channels."""
    return Apply(draw.one(ordered_mixes())), image


@block(Image)
def ordered_places(draw: Draw, image: Image) -> Made:
    """The same along places, where it pins nothing that could be cut."""
    mixes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.flatten(2).softmax(-1).view_as(x),
        lambda x: x.flatten(2).cumsum(-1).view_as(x),
        lambda x: x.flip(-1) + x.roll((1, 1), (2, 3)),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 2:],
        lambda x: F.pad(x, (1, 0, 0, 1), mode="replicate")[..., 1:, :-1],
    )
    return Apply(draw.one(mixes)), image


def chosen(draw: Draw) -> Callable[[Tensor], Tensor]:
    """Elements chosen by a condition."""
    choices: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: torch.where(x > 0, x, x.exp() - 1),
        lambda x: x.masked_fill(x < -0.5, 0.25),
        lambda x: x.clamp(-1, 1) + x.sign() * x.abs().sqrt(),
        lambda x: torch.where(x.mean(1, keepdim=True) > 0, x, -x),
        lambda x: x * (x > x.amax(1, keepdim=True) * 0.5),
        lambda x: torch.where(torch.isfinite(x), x, 0.0).lerp(torch.zeros_like(x), 0.25),
        lambda x: torch.full_like(x, 0.5) + x,
        lambda x: x.new_ones(x.shape[1:]) * x,
    )
    return draw.one(choices)


@block(Image)
def chosen_elements(draw: Draw, image: Image) -> Made:
    """On images."""
    return Apply(chosen(draw)), image


@block(Tokens)
def chosen_features(draw: Draw, tokens: Tokens) -> Made:
    """On sequences."""
    return Apply(chosen(draw)), tokens


@block(Tokens)
def masked_features(draw: Draw, tokens: Tokens) -> Made:
    """A constant mask over features or positions."""
    shape = (tokens.features,) if draw.chance() else (tokens.length, 1)
    mask = torch.arange(shape[0]).view(shape) % 3 == 0
    return Apply(lambda x: x.masked_fill(mask, 0.5)), tokens


@block(Image)
def repeat_channels(draw: Draw, image: Image) -> Made | None:
    """Copies of the channels: block by block, one by one, or by a new axis."""
    if image.channels > 12:
        return None
    times = draw.between(2, 3)
    copies: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.repeat(1, times, 1, 1),
        lambda x: x.tile((times, 1, 1)),
        lambda x: x.repeat_interleave(times, dim=1),
        lambda x: x.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2),
        lambda x: x.unsqueeze(1).expand(-1, times, -1, -1, -1).reshape(x.shape[0], -1, *x.shape[2:]),
        lambda x: torch.stack([x] * times, 1).flatten(1, 2),
        lambda x: torch.stack([x, x.tanh(), x.neg()][:times], 2).flatten(1, 2),
        lambda x: torch.cat([x] * times, 1),
    )
    return Apply(draw.one(copies)), image.wide(times * image.channels)


@block(Image)
def uneven_parts(draw: Draw, image: Image) -> Made:
    """Chunks of which the last is smaller, rearranged."""
    parts = draw.between(2, 3)
    moves: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: torch.cat(x.chunk(parts, dim=1)[::-1], dim=1),
        lambda x: torch.cat(torch.tensor_split(x, parts, dim=1)[::-1], dim=1),
        lambda x: torch.cat([each * (at + 1) for at, each in enumerate(x.split(parts, dim=1))], dim=1),
        lambda x: torch.cat([x[:, parts:], x[:, :parts]], dim=1),
        lambda x: torch.cat([x[:, :-1], x[:, -1:].tanh()], dim=1),
    )
    return Apply(draw.one(moves)), image


@block(Image)
def strided_channels(draw: Draw, image: Image) -> Made:
    """Every second channel, or the even ones against the odd."""
    if image.channels % 2 == 0 and draw.chance(0.7):
        return Apply(draw.one((lambda x: x[:, ::2] * torch.tanh(x[:, 1::2]), lambda x: x[:, 1::2]))), image.wide(
            image.channels // 2
        )
    return Apply(lambda x: x[:, ::2]), image.wide((image.channels + 1) // 2)


@block(Image)
def factored_slices(draw: Draw, image: Image) -> Made | None:
    """Channels as two factors, one of which is sliced, unbound or summed."""
    outer = draw.divisor(image.channels, proper=True)
    inner = image.channels // outer
    if outer == 1 or inner == 1:
        return None
    ways: tuple[tuple[Callable[[Tensor], Tensor], int], ...] = (
        (lambda x: x.unflatten(1, (outer, inner))[:, :, 0], outer),
        (lambda x: x.unflatten(1, (outer, inner))[:, 1], inner),
        (lambda x: sum(x.unflatten(1, (outer, inner)).unbind(1)), inner),
        (lambda x: x.unflatten(1, (outer, inner))[:, 1:].flatten(1, 2), image.channels - inner),
        (lambda x: x.unflatten(1, (outer, inner))[:, :, : inner - 1].flatten(1, 2), outer * (inner - 1)),
        (lambda x: x.unflatten(1, (outer, inner)).softmax(1).sum(1), inner),
        (lambda x: x.unflatten(1, (outer, inner)).transpose(1, 2).flatten(1, 2), image.channels),
        (lambda x: x.view(x.shape[0], outer, inner, *x.shape[2:]).movedim(2, 1).mean(1), outer),
    )
    function, channels = draw.one(ways)
    return Apply(function), image.wide(channels)
