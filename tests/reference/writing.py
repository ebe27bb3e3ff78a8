"""Operations that write at positions: what is written over takes the mask of what it is overwritten with.

The positions must be known wherever something alive is written. Constants are alive wherever what they continue is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.reference.calls import Call, rule
from tests.reference.values import Masked, uniform

if TYPE_CHECKING:
    from torch import Tensor


@rule("index_put", "index_copy", "slice_scatter", "select_scatter")
def written(call: Call) -> Masked:
    """The mask is written as the value is."""
    new = next(call[name] for name in ("source", "values", "src") if name in call.arguments)
    moving = (call["self"], new)
    positions = [operand for operand in call.operands if not any(operand is each for each in moving)]
    assert all(each.whole for each in positions), f"{call.name}: a cut through the positions"
    assert not call.get("accumulate"), f"{call.name}: accumulation under a cut is not defined here"
    mask = call.run(lambda operand: operand.alive if any(operand is each for each in moving) else operand.value)
    return Masked(call.run(), mask)


@rule("scatter.src")
def scattered(call: Call) -> Masked:
    """Written where both the position and what is written are alive, dead where either is not."""
    return Masked(call.run(), call.run(self=call["self"].alive, src=met(call["index"], call["src"])))


@rule("scatter.value", "index_fill")
def filled(call: Call) -> Masked:
    """Nothing may be cut along the axis that positions address; a constant is alive where the rest of its line is."""
    masked = call["self"]
    line = uniform(masked.alive, (call["dim"],), f"the positions of {call.name}")
    return Masked(call.run(), line.expand_as(masked.alive).clone())


@rule("index_add", "scatter_add")
def accumulated(call: Call) -> Masked:
    """A sum of elements: alive where it is alive itself and nothing dead was added to it."""
    masked, index = call["self"], call["index"]
    name = "source" if call.name == "index_add" else "src"
    if call.name == "index_add":
        assert index.whole, "index_add: a cut through the positions"
        added = call[name].alive
    else:
        added = met(index, call[name])
    zeros = torch.zeros(masked.value.shape, dtype=torch.float64)
    dead = call.run(self=zeros, **{name: (~added).double()})
    return Masked(call.run(), masked.alive & (dead == 0))


def met(index: Masked, source: Masked) -> Tensor:
    """Which elements of the source are alive and, where they are written at all, have a position that is alive."""
    alive = source.alive.clone()
    corner = tuple(slice(0, size) for size in index.alive.shape)
    alive[corner] &= index.alive
    return alive
