"""Operations that mix along spatial axes (pooling, interpolation, windows), and padding."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tests.reference.calls import Call, rule
from tests.reference.values import Masked, spread, uniform

POOLS = [f"{kind}_pool{rank}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max", "lp") for rank in (1, 2, 3)]
INDEXED_POOLS = [f"max_pool{rank}d_with_indices" for rank in (1, 2, 3)]
RESIZES = ["linear1d", "nearest1d", "nearest2d", "nearest3d", "bilinear2d", "bicubic2d", "trilinear3d"]
EXACT = [f"_upsample_nearest_exact{rank}d" for rank in (1, 2, 3)]


@rule(*POOLS, *INDEXED_POOLS)
@rule(*(f"upsample_{each}" for each in RESIZES), *EXACT, "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa")
def pooled(call: Call) -> Any:
    """Every place of a channel is as alive as its others."""
    masked = call.operands[0]
    rank = re.search(r"(\d)d", call.name)
    assert rank is not None
    line = uniform(masked.alive, range(-int(rank[1]), 0), "the spatial axes of " + call.name)
    return tree_map(lambda out: spread(out, line), call.run())


@rule("grid_sampler")
def grid_sampler(call: Call) -> Masked:
    """Channels pass; places are computed."""
    masked, grid = call["input"], call["grid"]
    assert grid.whole, "cut along a sampling grid"
    return spread(call.run(), uniform(masked.alive, range(2 - masked.value.dim(), 0), "the sampled axes"))


@rule("im2col")
def im2col(call: Call) -> Masked:
    """[.., C, H, W] to [.., C · taps, places]."""
    channels = uniform(call["self"].alive, (-2, -1), "the spatial axes of unfold").flatten(-3)
    out, (height, width) = call.run(), call["kernel_size"]
    return spread(out, channels.repeat_interleave(height * width, dim=-1).unsqueeze(-1))


@rule("col2im")
def col2im(call: Call) -> Masked:
    """[.., C · taps, places] to [.., C, H, W]."""
    height, width = call["kernel_size"]
    by_tap = call["self"].alive.unflatten(-2, (-1, height * width))
    return spread(call.run(), uniform(by_tap, (-2, -1), "the taps of fold"))


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Masked:
    """Padding is alive wherever anything is that it continues: new channels are, a dead channel's margin is not."""
    if call.get("mode", "constant") != "constant":
        return Masked(call.run(), call.run(lambda each: each.alive.double()) > 0)
    alive, sizes = call["self"].alive, list(call["pad"])
    for dim, (before, after) in enumerate(zip(sizes[::2], sizes[1::2], strict=True), start=1):
        alive = extended(alive, -dim, before, after)
    return Masked(call.run(), alive.contiguous())


def extended(alive: Tensor, dim: int, before: int, after: int) -> Tensor:
    """One axis longer (or shorter, where negative) at both ends."""
    line = alive.any(dim, keepdim=True)
    ends = [line.expand(*widths(alive, dim, max(each, 0))) for each in (before, after)]
    kept = alive.narrow(dim, max(-before, 0), alive.shape[dim] - max(-before, 0) - max(-after, 0))
    return torch.cat([ends[0], kept, ends[1]], dim)


def widths(alive: Tensor, dim: int, size: int) -> list[int]:
    """The mask's shape with one axis of another size."""
    shape = list(alive.shape)
    shape[dim] = size
    return shape
