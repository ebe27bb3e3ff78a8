"""Blocks that join two values, or turn one kind into another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.kinds import Image, Tokens, Vector
from tests.randomgraphs.registry import Apply, Draw, Made, activation, block

if TYPE_CHECKING:
    from collections.abc import Callable


def join_equal(draw: Draw, first: Image | Tokens | Vector, second: Image | Tokens | Vector) -> Made | None:
    """Elementwise, of equal shapes."""
    if first != second:
        return None
    joins: tuple[Callable[..., Tensor], ...] = (
        torch.add,
        torch.maximum,
        lambda a, b: a * torch.tanh(b),
        lambda a, b: a - 0.5 * b,
    )
    return Apply(draw.one(joins)), first


@block(Image, Image)
def join_images(draw: Draw, first: Image, second: Image) -> Made | None:
    """Elementwise."""
    return join_equal(draw, first, second)


@block(Tokens, Tokens)
def join_tokens(draw: Draw, first: Tokens, second: Tokens) -> Made | None:
    """Elementwise."""
    return join_equal(draw, first, second)


@block(Vector, Vector)
def join_vectors(draw: Draw, first: Vector, second: Vector) -> Made | None:
    """Elementwise."""
    return join_equal(draw, first, second)


class ProjectedSum(nn.Module):
    """Two values of different widths meet in a third."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """F(x) + g(y)."""
        out: Tensor = self.first(x) + self.second(y)
        return out


@block(Image, Image)
def projected_sum(draw: Draw, first: Image, second: Image) -> Made | None:
    """A shortcut with a projection."""
    if first.shape[1:] != second.shape[1:]:
        return None
    out = draw.width()
    module = ProjectedSum(nn.Conv2d(first.channels, out, 1), nn.Conv2d(second.channels, out, 3, padding=1))
    return module, first.wide(out)


@block(Tokens, Tokens)
def projected_token_sum(draw: Draw, first: Tokens, second: Tokens) -> Made | None:
    """The same on sequences."""
    if first.length != second.length:
        return None
    out = draw.width()
    return ProjectedSum(nn.Linear(first.features, out), nn.Linear(second.features, out)), first.wide(out)


@block(Image, Image)
def concat_images(draw: Draw, first: Image, second: Image) -> Made | None:
    """Along channels."""
    del draw
    total = first.channels + second.channels
    if first.shape[1:] != second.shape[1:] or total > 36:
        return None
    return Apply(lambda x, y: torch.cat([x, y], dim=1)), first.wide(total)


@block(Tokens, Tokens)
def concat_tokens(draw: Draw, first: Tokens, second: Tokens) -> Made | None:
    """Along features, or along the sequence."""
    if first.length == second.length and first.features + second.features <= 36:
        return Apply(lambda x, y: torch.cat([x, y], dim=-1)), first.wide(first.features + second.features)
    if first.features == second.features and first.length + second.length <= 12 and draw.chance(0.8):
        return Apply(lambda x, y: torch.cat([x, y], dim=1)), Tokens(first.length + second.length, first.features)
    return None


@block(Vector, Vector)
def concat_vectors(draw: Draw, first: Vector, second: Vector) -> Made | None:
    """Along features, by stacking where the shapes are equal."""
    if first == second and draw.chance():
        return Apply(lambda x, y: torch.stack([x, y], dim=1).flatten(1)), Vector(2 * first.features)
    return Apply(lambda x, y: torch.cat([x, y], dim=1)), Vector(first.features + second.features)


class Modulation(nn.Module):
    """A vector scales and shifts every channel (FiLM)."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """X · (1 + a) + b, on an image or on a sequence."""
        projected: Tensor = self.project(condition)
        scale, shift = projected.chunk(2, dim=1)
        if x.dim() == 4:
            return x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


@block(Image, Vector)
def modulate_image(draw: Draw, image: Image, vector: Vector) -> Made:
    """Conditioned channels."""
    del draw
    return Modulation(vector.features, image.channels), image


@block(Tokens, Vector)
def modulate_tokens(draw: Draw, tokens: Tokens, vector: Vector) -> Made:
    """Adaptive scale and shift, as diffusion transformers have it."""
    del draw
    return Modulation(vector.features, tokens.features), tokens


@block(Image)
def image_to_tokens(draw: Draw, image: Image) -> Made | None:
    """Places become a sequence."""
    if image.height * image.width > 16:
        return None
    change = draw.one((lambda x: x.flatten(2).transpose(1, 2), lambda x: x.permute(0, 2, 3, 1).flatten(1, 2)))
    return Apply(change), Tokens(image.height * image.width, image.channels)


@block(Tokens)
def tokens_to_image(draw: Draw, tokens: Tokens) -> Made | None:
    """A sequence becomes places."""
    height = draw.divisor(tokens.length, proper=True)
    if tokens.length < 4 or height in {1, tokens.length}:
        return None
    return Apply(lambda x: x.transpose(1, 2).unflatten(2, (height, -1))), Image(
        tokens.features, height, tokens.length // height
    )


@block(Image)
def image_to_vector(draw: Draw, image: Image) -> Made:
    """Pooled over places."""
    pool = draw.one(
        (
            lambda x: x.mean((2, 3)),
            lambda x: x.amax((-1, -2)),
            lambda x: x.sum(3).mean(2),
            lambda x: x.flatten(2).std(-1),
            lambda x: F.adaptive_avg_pool2d(x, 1).squeeze() if x.shape[1] > 1 else x.mean((2, 3)),
            lambda x: (
                x.mean((2, 3), keepdim=True).squeeze(3).squeeze(-1).squeeze(1) if x.shape[1] > 1 else x.amax((2, 3))
            ),
        )
    )
    return Apply(pool), Vector(image.channels)


@block(Image)
def flatten_image(draw: Draw, image: Image) -> Made:
    """Channels and places as one axis into a layer."""
    out = draw.width()
    return nn.Sequential(nn.Flatten(), nn.Linear(image.channels * image.height * image.width, out)), Vector(out)


@block(Tokens)
def tokens_to_vector(draw: Draw, tokens: Tokens) -> Made:
    """One token, or their mean."""
    which = draw.between(0, tokens.length - 1)
    return Apply(draw.one((lambda x: x[:, which], lambda x: x.mean(1)))), Vector(tokens.features)


@block(Tokens)
def flatten_tokens(draw: Draw, tokens: Tokens) -> Made:
    """The whole sequence as one axis into a layer."""
    out = draw.width()
    return nn.Sequential(nn.Flatten(), nn.Linear(tokens.length * tokens.features, out)), Vector(out)


@block(Vector)
def dense(draw: Draw, vector: Vector) -> Made:
    """A layer, sometimes normalised."""
    out = draw.width()
    norm = draw.one((nn.BatchNorm1d(out), nn.LayerNorm(out), nn.Identity()))
    return nn.Sequential(nn.Linear(vector.features, out), norm, activation(draw, inplace=True)), Vector(out)
