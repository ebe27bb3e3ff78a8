"""Reductions see what is alive; the result is alive where anything was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from tests.reference.calls import Call, rule
from tests.reference.values import Masked, silence

if TYPE_CHECKING:
    from torch import Tensor


@rule("sum", "nansum", "linalg_vector_norm", "norm", "frobenius_norm", "any", "count_nonzero")
def silent_zero(call: Call) -> Masked:
    """Zero adds nothing."""
    assert (call.get("ord", call.get("p")) or 2) > 0, "a norm that zeros would change"
    return reduced(call, 0)


@rule("prod", "all")
def silent_one(call: Call) -> Masked:
    """One multiplies nothing."""
    return reduced(call, 1)


@rule("amax", "max.default", "logsumexp")
def silent_low(call: Call) -> Masked:
    """The lowest value is no maximum."""
    return reduced(call, extreme(call["self"].value.dtype, largest=False))


@rule("amin", "min.default")
def silent_high(call: Call) -> Masked:
    """The highest value is no minimum."""
    return reduced(call, extreme(call["self"].value.dtype, largest=True))


@rule("mean")
def mean(call: Call) -> Masked:
    """Σ alive / number alive."""
    masked = call["self"]
    value = silence(masked).to(call["dtype"]) if call.get("dtype") else silence(masked)
    total, count = (summed(each, call) for each in (value, masked.alive))
    return Masked(total / count.clamp(min=1), count > 0)


@rule("var", "std", "var_mean", "std_mean")
def variance(call: Call) -> Any:
    """Σ (x - mean)² / (number alive - correction)."""
    masked = call["self"]
    count, total = summed(masked.alive, call, keep=True), summed(silence(masked), call, keep=True)
    average = total / count.clamp(min=1)
    squares = torch.where(masked.alive, masked.value - average, 0).square()
    spread = summed(squares, call) / (summed(masked.alive, call) - correction(call))
    alive = summed(masked.alive, call) > 0
    result = Masked(spread.sqrt() if call.name.startswith("std") else spread, alive)
    return (result, Masked(average.reshape(alive.shape), alive)) if call.name.endswith("mean") else result


@rule("cdist")
def distances(call: Call) -> Masked:
    """The norm of each pair's difference over what is alive of both."""
    first, second = call["x1"], call["x2"]
    alive = first.alive.unsqueeze(-2) & second.alive.unsqueeze(-3)
    difference = torch.where(alive, first.value.unsqueeze(-2) - second.value.unsqueeze(-3), 0)
    return Masked(torch.linalg.vector_norm(difference, call["p"], dim=-1), alive.any(-1))


def reduced(call: Call, fill: float) -> Masked:
    """The operation on the operand with its dead elements replaced by what does not count."""
    masked = call["self"]
    return Masked(call.run(self=silence(masked, fill)), summed(masked.alive, call) > 0)


def summed(value: Tensor, call: Call, *, keep: bool | None = None) -> Tensor:
    """The sum over the axes that the call reduces."""
    dims, keepdim = call.get("dim"), bool(call.get("keepdim", False)) if keep is None else keep
    if isinstance(dims, int):
        dims = [dims]
    return value.sum(tuple(dims or range(value.dim())), keepdim=keepdim)


def correction(call: Call) -> float:
    """How many degrees of freedom the variance gives away."""
    if "unbiased" in call.arguments:
        return float(call["unbiased"])
    return 1.0 if call["correction"] is None else float(call["correction"])


def extreme(dtype: torch.dtype, *, largest: bool) -> float:
    """The greatest or smallest number of a dtype."""
    if dtype.is_floating_point:
        return math.inf if largest else -math.inf
    return torch.iinfo(dtype).max if largest else torch.iinfo(dtype).min
