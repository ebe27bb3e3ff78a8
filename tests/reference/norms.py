"""Normalisations: the statistics are those of what is alive.

An element that its own scale or shift has lost is as dead as one that never arrived: it does not enter the statistics.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch

from tests.reference.calls import Call, rule
from tests.reference.values import Masked, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@rule("layer_norm")
def layer_norm(call: Call) -> Masked:
    """(x - mean) / √(var + eps) · weight + bias over the last axes."""
    dims = range(-len(call["normalized_shape"]), 0)
    masked, affine = call["input"], [call["weight"], call["bias"]]
    kept = alive_everywhere(masked.alive, affine)
    return scaled(Masked(standardised(masked.value, kept, dims, call["eps"]), kept), affine)


@rule("rms_norm")
def rms_norm(call: Call) -> Masked:
    """X / √(mean(x²) + eps) · weight over the last axes."""
    dims = tuple(range(-len(call["normalized_shape"]), 0))
    masked, affine = call["input"], [call["weight"], None]
    eps = call["eps"] if call["eps"] is not None else torch.finfo(masked.value.dtype).eps
    kept = alive_everywhere(masked.alive, affine)
    mean = alive_mean(masked.value.square(), kept, dims)
    return scaled(Masked(masked.value * torch.rsqrt(mean + eps), kept), affine)


@rule("group_norm")
def group_norm(call: Call) -> Masked:
    """Standardised within each sample's group of channels."""
    return grouped(call, call["num_groups"])


@rule("instance_norm")
def instance_norm(call: Call) -> Masked:
    """A group a channel; with running statistics it is batch normalisation."""
    return grouped(call, call["input"].value.shape[1]) if call["use_input_stats"] else by_channel(call)


@rule("batch_norm")
def batch_norm(call: Call) -> Masked:
    """By running statistics, or by those of each channel (as some standardise weights)."""
    if not call["training"]:
        return by_channel(call)
    assert call["running_mean"] is None, "running statistics are not updated here"
    masked = call["input"]
    affine = [channelwise(call[name], masked.value.dim()) for name in ("weight", "bias")]
    kept = alive_everywhere(masked.alive, affine)
    dims = [dim for dim in range(masked.value.dim()) if dim != 1]
    return scaled(Masked(standardised(masked.value, kept, dims, call["eps"]), kept), affine)


def by_channel(call: Call) -> Masked:
    """Elementwise: a factor and a shift for each channel."""
    masked = call["input"]
    parameters = [channelwise(each, masked.value.dim()) for each in call.operands if each is not masked]
    return Masked(call.run(), alive_everywhere(masked.alive, parameters))


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(call: Call) -> Masked:
    """G · v / |v|, the length of v over all axes but one."""
    direction, length, dim = call["v"], call["g"], call["dim"]
    others = tuple(axis for axis in range(direction.value.dim()) if axis != dim % direction.value.dim())
    norm = torch.where(direction.alive, direction.value, 0).square().sum(others, keepdim=True).sqrt()
    return Masked(direction.value * (length.value / norm), direction.alive & length.alive)


def grouped(call: Call, groups: int) -> Masked:
    """Standardise within groups of channels, then scale and shift by channel."""
    masked = call["input"]
    shape = masked.value.shape
    affine = [channelwise(call[name], len(shape)) for name in ("weight", "bias")]
    kept = alive_everywhere(masked.alive, affine)
    within = (shape[0], groups, -1)
    normal = standardised(masked.value.reshape(within), kept.reshape(within), (-1,), call["eps"])
    return scaled(Masked(normal.reshape(shape), kept), affine)


def channelwise(parameter: Masked | None, rank: int) -> Masked | None:
    """The parameter along dimension 1."""
    if parameter is None:
        return None
    shape = (-1, *[1] * (rank - 2))
    return Masked(parameter.value.view(shape), parameter.alive.view(shape))


def alive_everywhere(alive: Tensor, parameters: Sequence[Masked | None]) -> Tensor:
    """Alive and met by alive parameters."""
    return reduce(lambda mask, each: mask & each.alive, (each for each in parameters if each is not None), alive)


def alive_mean(value: Tensor, alive: Tensor, dims: Sequence[int]) -> Tensor:
    """The mean of the alive elements; zero where there are none."""
    count = alive.sum(tuple(dims), keepdim=True).clamp(min=1)
    return torch.where(alive, value, 0).sum(tuple(dims), keepdim=True) / count


def standardised(value: Tensor, alive: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    """(x - mean) / √(var + eps), mean and variance those of the alive elements."""
    centred = value - alive_mean(value, alive, dims)
    return centred * torch.rsqrt(alive_mean(centred.square(), alive, dims) + eps)


def scaled(masked: Masked, affine: Sequence[Masked | None]) -> Masked:
    """X · weight + bias, where they are given."""
    weight, bias = affine
    value = masked.value
    if weight is not None:
        value = value * weight.value
    if bias is not None:
        value = value + bias.value
    return spread(value, masked.alive)
