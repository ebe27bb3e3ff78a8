"""Counterexamples that random graphs and real models brought up, each kept as a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.semantics.checking import check


class InterleavedRotary(nn.Module):
    """Pairs of neighbouring dimensions are rotated: strided slices, put together again by a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 16)
        self.angles = nn.Parameter(torch.randn(8))
        self.down = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.up(x)
        even, odd = features[..., ::2], features[..., 1::2]
        rotated = torch.stack([-odd, even], dim=-1).flatten(-2)
        angles = self.angles.repeat_interleave(2, dim=-1)
        mixed: Tensor = self.down(features * angles.cos() + rotated * angles.sin())
        return mixed


class InnerBeforeOuter(nn.Module):
    """A mean over channels that stand before the groups within which they were chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 12, 1)
        self.grouped = nn.Conv2d(12, 6, 3, padding=1, groups=3)
        self.down = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.a(x)
        turned = wide.unflatten(1, (3, 4)).transpose(1, 2)
        gate = turned.mean((-1, -2), keepdim=True).transpose(1, 2).flatten(1, 2)
        pooled: Tensor = self.down(self.grouped(wide * gate).mean((-1, -2)))
        return pooled


class LowRank(nn.Module):
    """A square product of two factors: no choice of the inner index for each outer one, of which there are two."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 6)
        self.a, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 4))
        self.down = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.down(x + nn.functional.linear(x, self.base.weight + self.b @ self.a, self.base.bias))
        return joined


class PaddedConcatenation(nn.Module):
    """Padding by reflection along an axis that is known to have parts, of which the padding is none."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(2, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(self.up(x), (1, 1, 0, 0), mode="reflect")
        joined: Tensor = self.down(padded + torch.cat([padded[..., :3], padded[..., 3:]], -1))
        return joined


class PooledToItsOwnSize(nn.Module):
    """A layer that pools to a size that is computed as the graph runs, here the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d((None, 1))

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        pooled = self.pool(up.transpose(0, 2)).transpose(0, 2)
        joined: Tensor = self.down(pooled + up)
        return joined


class SideBySide(nn.Module):
    """hstack and its kin, of which some are one operation in some versions of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.down = nn.Linear(4, 5), nn.Linear(4, 3), nn.Linear(8, 2)
        self.tall = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a(x), self.b(x)
        return self.down(torch.hstack([a, b])), self.tall(torch.vstack([torch.column_stack([a, b])] * 2))


class ExpandedByBatchAndHeads(nn.Module):
    """A table without batch is expanded to as many rows as batch and heads make: a symbolic size that is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.table = nn.Parameter(torch.randn(1, 5, 5))
        self.down = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.up(x).unflatten(-1, (4, 2)).transpose(1, 2).flatten(0, 1)
        mixed = self.table.expand(heads.size(0), 5, 5) @ heads
        joined: Tensor = self.down(mixed.reshape(x.size(0), 4, 5, 2).transpose(1, 2).flatten(2))
        return joined


class OneChannelPerGroup(nn.Module):
    """GroupNorm with as many groups as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 6, 1)
        self.norm = nn.GroupNorm(6, 6)
        self.down = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.down(self.norm(self.a(x)))
        return pooled


class StackedExperts(nn.Module):
    """A choice by expert on the last of three axes: a plan must not take the middle one for that of the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(2, 8, 6))
        self.down = nn.Parameter(torch.randn(2, 6, 8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("bf,efh->beh", x, self.up))
        return torch.einsum("beh,ehf->bef", hidden, self.down).sum(1)


class HeadsInTheMiddle(nn.Module):
    """A choice by head where another axis stands before that of the heads: a plan could not say it."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(6, 3, 4))
        self.out = nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.tanh(torch.einsum("bf,fhd->bhd", x, self.into))
        return torch.einsum("bhd,hdf->bhf", heads, self.out).sum(1)


class PickedPositions(nn.Module):
    """The axis of a constant's positions reaches a weight; no plan can say that it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        picked = x[:, torch.tensor([2, 0, 1, 1])]
        mixed: Tensor = self.mix(picked) + picked.mean(1, keepdim=True)
        return mixed


class BatchAsGroups(nn.Module):
    """A kernel for each sample: the number of groups is the batch size, which is free."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(2, 4, 6, 1, 1))
        self.gate = nn.Linear(6, 2)
        self.before = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        kernels = torch.einsum("be,eoihw->boihw", self.gate(x.mean((2, 3))), self.kernels).flatten(0, 1)
        batch, channels, height, width = x.shape
        mixed = nn.functional.conv2d(x.reshape(1, batch * channels, height, width), kernels, groups=batch)
        return mixed.view(batch, -1, height, width)


class ViewedAs(nn.Module):
    """A tensor takes another's shape without ever meeting it: their axes have to be kept equal all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)
        self.down, self.other = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        shape = self.a(x)
        mixed: Tensor = self.down(self.b(x).flatten(0, 1).view_as(shape)) + self.other(shape)
        return mixed


class Squeezed(nn.Module):
    """Every axis of size 1 vanishes; an axis that is cut to one index must not."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(4, 3, 1)
        self.down = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.up(x).mean((2, 3), keepdim=True)
        mixed: Tensor = self.down(pooled.squeeze()) + self.down(pooled.squeeze(3).squeeze(2).squeeze(1))
        return mixed


class BroadcastTo(nn.Module):
    """Sizes to broadcast to follow the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        mixed: Tensor = self.down(up.amax(1, keepdim=True).broadcast_to(up.shape) + up)
        return mixed


class Counted(nn.Module):
    """count_nonzero along one dimension is the overload that counts everything if none is given."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x).relu()
        mixed: Tensor = self.down(up * up.count_nonzero(dim=1).unsqueeze(1)) * up.count_nonzero()
        return mixed


MODULES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (InterleavedRotary, (3, 5, 6)),
    (InnerBeforeOuter, (3, 4, 5, 5)),
    (ExpandedByBatchAndHeads, (3, 5, 6)),
    (LowRank, (3, 5, 6)),
    (PaddedConcatenation, (3, 2, 4, 5)),
    (SideBySide, (3, 4)),
    (PooledToItsOwnSize, (3, 3, 5, 4)),
    (OneChannelPerGroup, (3, 4, 5, 5)),
    (StackedExperts, (3, 8)),
    (HeadsInTheMiddle, (3, 6)),
    (PickedPositions, (5, 3)),
    (BatchAsGroups, (3, 3, 4, 4)),
    (ViewedAs, (3, 5, 4)),
    (Squeezed, (3, 4, 5, 5)),
    (BroadcastTo, (3, 5, 4)),
    (Counted, (3, 5, 4)),
]


@pytest.mark.parametrize(("build", "shape"), MODULES, ids=[build.__name__ for build, _ in MODULES])
def test_module(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(build().double().eval(), (torch.randn(shape, dtype=torch.float64),), seed=0, plans=8)
