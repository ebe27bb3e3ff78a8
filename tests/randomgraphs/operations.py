"""Blocks of one operation or two, in the spellings that PyTorch has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.kinds import Image, Tokens, Vector
from tests.randomgraphs.registry import Apply, Draw, Made, block

if TYPE_CHECKING:
    from collections.abc import Callable


def statistics() -> tuple[Callable[[Tensor], Tensor], ...]:
    """What weighs each element by a statistic over dimension 1."""
    return (
        lambda x: x * torch.sigmoid(x.amin(1, keepdim=True)),
        lambda x: x - x.logsumexp(1, keepdim=True),
        lambda x: x / (x.var(1, unbiased=False, keepdim=True) + 1),
        lambda x: x / (x.std(dim=1, keepdim=True, correction=0) + 1),
        lambda x: (
            (x - torch.var_mean(x, dim=1, correction=0, keepdim=True)[1])
            / (1 + torch.var_mean(x, dim=1, correction=0, keepdim=True)[0])
        ),
        lambda x: x / (1 + torch.std_mean(x, 1, unbiased=False, keepdim=True)[0]),
        lambda x: x / (1 + torch.linalg.vector_norm(x, dim=1, keepdim=True)),
        lambda x: x / (1 + x.norm(p=1, dim=1, keepdim=True)),
        lambda x: x * x.sigmoid().prod(1, keepdim=True),
        lambda x: x * (1 + (x > 0).any(dim=1, keepdim=True)),
        lambda x: x * (1 + (x > -2).all(dim=1, keepdim=True)),
        lambda x: x / (1 + x.abs().sum((1, 2), keepdim=True)),
        lambda x: x * torch.sigmoid(x.mean()),
        lambda x: x - x.max() + x.min(),
        lambda x: x / (1 + x.nansum(1, keepdim=True).abs()),
        lambda x: x * (x > 0).count_nonzero(dim=1).unsqueeze(1),
        lambda x: F.normalize(x, p=2, dim=1),
        lambda x: F.layer_norm(x, x.shape[1:]),
    )


@block(Image)
def statistic_of_channels(draw: Draw, image: Image) -> Made:
    """Over channels, alone or with places."""
    return Apply(draw.one(statistics())), image


@block(Tokens)
def statistic_of_tokens(draw: Draw, tokens: Tokens) -> Made:
    """Over the sequence or over features."""
    statistic = draw.one(statistics())
    turned = draw.chance()
    return Apply(lambda x: statistic(x.mT).mT if turned else statistic(x)), tokens


def elementwise() -> tuple[Callable[[Tensor], Tensor], ...]:
    """Element by element, on new memory."""
    return (
        lambda x: x.type_as(x) + x.to(dtype=x.dtype, copy=True),
        lambda x: torch.rsub(x, 1.0) * 2,
        lambda x: torch.true_divide(x, 2).negative().absolute() + torch.multiply(x, 0.5),
        lambda x: torch.maximum(x, x.neg() * 0.1) + torch.minimum(x, torch.ones_like(x)),
        lambda x: torch.max(x, x.new_zeros(())) - torch.min(x, x.new_full((), 0.5)),
        lambda x: F.selu(x) + F.logsigmoid(x) + F.mish(x) + F.elu(x) + F.celu(x),
        lambda x: F.hardsigmoid(x) * F.relu6(x) + F.softsign(x) + F.tanhshrink(x) + F.hardshrink(x),
        lambda x: torch.where(x > 0, 1.0, x) + torch.where(x < 0, x, 0.0) + torch.where(x > 1, 0.5, 0.25),
        lambda x: x * ((x > 0) & (x < 1)) + x * ((x < -1) | (x > 1)),
        lambda x: torch.zeros_like(x).copy_(x).mul_(2).add_(1),
        lambda x: (x * 2).masked_fill_(x > 1, 0.0).clamp_(min=-1),
        lambda x: torch.complex(x, -x).abs() + torch.polar(x.abs(), x).real,
        lambda x: F.threshold(x, 0.1, 0.0) + torch.special.expit(x) + x.nan_to_num(),
        lambda x: torch.addcdiv(x, x, 1 + x.square()) + torch.lerp(x, -x, 0.25),
        lambda x: x.double().float().double() * 0 + x.pow(3) * 0.1 + 2 ** x.clamp(max=1),
        lambda x: (
            x.clone().detach().requires_grad_(False) + x.alias_copy()
            if hasattr(x, "alias_copy")
            else x.clone().detach()
        ),
        lambda x: x.floor() + x.round() * x.frac() + x.atan2(torch.ones_like(x)),
        lambda x: torch.ones_like(x).fill_(0.5) * x + torch.empty_like(x).zero_(),
    )


@block(Image)
def image_elementwise(draw: Draw, image: Image) -> Made:
    """On images."""
    return Apply(draw.one(elementwise())), image


@block(Tokens)
def token_elementwise(draw: Draw, tokens: Tokens) -> Made:
    """On sequences."""
    return Apply(draw.one(elementwise())), tokens


@block(Image)
def respelled_moves(draw: Draw, image: Image) -> Made:
    """Identities made of two moves."""
    moves: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.swapaxes(1, 2).swapdims(1, 2),
        lambda x: x.movedim((1, 2), (2, 1)).movedim(1, 2),
        lambda x: x.flatten(1).view_as(x),
        lambda x: x.transpose(1, 3).reshape(x.shape[0], -1, x.shape[1]).transpose(1, 2).reshape_as(x),
        lambda x: x.mean((2, 3), keepdim=True).broadcast_to(x.shape) + x,
        lambda x: x.amax((2, 3), keepdim=True).expand_as(x) * x,
        lambda x: x.unsqueeze(0).squeeze(0).unsqueeze(-1).squeeze(),
        lambda x: torch.column_stack([x[:, :1], x[:, 1:]]) if x.shape[1] > 1 else x,
        lambda x: torch.concat(torch.split(x, [1, x.shape[1] - 1], 1), 1) if x.shape[1] > 1 else x,
        lambda x: torch.cat(x.tensor_split((1, 2), dim=1), 1),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, 1:],
        lambda x: F.pad(x, (1, -1)) + x,
        lambda x: torch.channel_shuffle(x, next(each for each in (4, 3, 2, 1) if x.shape[1] % each == 0)),
        lambda x: torch.stack(x.unbind(-1), -1),
        lambda x: x.view(x.shape[0], x.shape[1], -1).unflatten(2, (x.shape[2], x.shape[3])),
        lambda x: x.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
    )
    return Apply(draw.one(moves)), image


@block(Image)
def resized(draw: Draw, image: Image) -> Made | None:
    """Up by two, then pooled back."""
    if image.height * image.width > 36:
        return None
    mode = draw.one(("bicubic", "nearest-exact", "bilinear", "area"))
    pools: tuple[nn.Module, ...] = (nn.AvgPool2d(2), nn.MaxPool2d(2), nn.LPPool2d(2, 2), nn.AdaptiveMaxPool2d(3))
    at = draw.between(0, 3)
    size = (image.height, image.width) if at < 3 else (3, 3)
    return nn.Sequential(Apply(lambda x: F.interpolate(x, scale_factor=2, mode=mode)), pools[at]), Image(
        image.channels, *size
    )


def written(draw: Draw, count: int) -> Callable[[Tensor], Tensor]:
    """Writes at positions of dimension 1, which has `count` of them."""
    first, second = torch.tensor([0, count - 1]), torch.tensor(draw.some(count, min(2, count)))
    writes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.index_fill(1, first, 0.5),
        lambda x: x.index_add(1, second, x[:, : len(second)] * 2),
        lambda x: x.index_copy(1, second, x[:, : len(second)] * 2),
        lambda x: torch.slice_scatter(x, x[:, :1] * 2, 1, 0, 1),
        lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, count - 1),
        lambda x: x.scatter_add(1, torch.zeros_like(x[:, :1], dtype=torch.long), x[:, :1]),
        lambda x: x.scatter(1, torch.zeros_like(x[:, :1], dtype=torch.long), 0.25),
    )
    return draw.one(writes)


@block(Image)
def written_channels(draw: Draw, image: Image) -> Made:
    """Channels by position."""
    return Apply(written(draw, image.channels)), image


@block(Tokens)
def written_tokens(draw: Draw, tokens: Tokens) -> Made:
    """Tokens by position, or features in place."""
    if draw.chance(0.3):
        return Apply(set_in_place), tokens
    return Apply(written(draw, tokens.length)), tokens


def set_in_place(x: Tensor) -> Tensor:
    """Writes to slices of a copy."""
    out = x * 1.5
    out[:, 0] = 0.5
    out[..., 1:] += x[..., 1:]
    out[:, 1:].mul_(2)
    return out


class Products(nn.Module):
    """A product in one of its spellings."""

    def __init__(self, features: int, out: int, spelling: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, out))
        self.bias = nn.Parameter(torch.zeros(out))
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        """X W + b."""
        match self.spelling:
            case "tensordot":
                contracted: Tensor = torch.tensordot(x, self.weight, dims=([x.dim() - 1], [0]))
                return contracted + self.bias
            case "baddbmm":
                weight = self.weight.unsqueeze(0).expand(x.shape[0], -1, -1)
                return torch.baddbmm(self.bias.view(1, 1, -1), x, weight)
            case "mm":
                return torch.unflatten(torch.mm(x.flatten(0, 1), self.weight) + self.bias, 0, x.shape[:2])
            case "addmm":
                return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], -1)
            case "distance":
                return torch.cdist(x, self.weight.t().unsqueeze(0)) + self.bias
            case "sum":
                return (x.unsqueeze(-1) * self.weight).sum(-2) + self.bias
            case "mean":
                return (x.unsqueeze(-1) * self.weight).mean(dim=-2) + self.bias
        return torch.einsum("...i,io->...o", x, self.weight) + self.bias


SPELLINGS = ("tensordot", "baddbmm", "mm", "addmm", "distance", "sum", "mean", "einsum")


@block(Tokens)
def spelled_product(draw: Draw, tokens: Tokens) -> Made:
    """A projection."""
    out = draw.width()
    return Products(tokens.features, out, draw.one(SPELLINGS)), tokens.wide(out)


class Gram(nn.Module):
    """Features against features, or tokens against tokens."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.up = nn.Linear(features, out)

    def forward(self, x: Tensor) -> Tensor:
        """The upper triangle pooled."""
        up: Tensor = self.up(x)
        gram = torch.bmm(up.mT, up) / x.shape[1]
        return gram.tril().sum(-1) + gram.triu(1).amax(-1) + torch.einsum("bii->bi", gram)


@block(Tokens)
def gram(draw: Draw, tokens: Tokens) -> Made:
    """One axis in two places of one tensor."""
    out = draw.width()
    return Gram(tokens.features, out), Vector(out)


@block(Vector)
def vector_norms(draw: Draw, vector: Vector) -> Made:
    """Norms of a vector, and its outer product with itself."""
    ways: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.layer_norm(x, (x.shape[-1],)),
        lambda x: torch.einsum("bi,bj->bij", x, x).mean(1),
        lambda x: x / torch.einsum("bi,bi->b", x, x).add(1).sqrt().unsqueeze(-1),
        lambda x: (x.unsqueeze(2) * x.unsqueeze(1)).softmax(-1).sum(1),
        lambda x: x * torch.stack([row.dot(row) for row in x.unbind(0)]).unsqueeze(-1),
        lambda x: F.glu(torch.cat([x, x.tanh()], -1), -1),
        lambda x: x.view(x.shape[0], -1, 1, 1).squeeze(),
    )
    return Apply(draw.one(ways)), vector
