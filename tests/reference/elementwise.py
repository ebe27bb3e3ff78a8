"""Elementwise operations: alive where every operand is.

PyTorch tags most of them ``pointwise``; those need no entry. Listed here is what it does not tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.reference.calls import Call, intact, rule, same_memory
from tests.reference.values import Masked, spread

if TYPE_CHECKING:
    from torch import Tensor


@rule(
    "alias",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "lift_fresh_copy",
    "to",
    "type_as",
    "_to_copy",
    "detach_",
    always=True,
)
def renamed(call: Call) -> Masked:
    """The first operand's values, as they are or in another dtype or place."""
    out, operand = call.run(), call.operands[0]
    return same_memory(call, out) or spread(out, operand.alive)


@rule(
    "fill",
    "zero",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "tril",
    "triu",
    "max.other",
    "min.other",
    "masked_fill",
    "where",
    "where.ScalarOther",
    "where.ScalarSelf",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "relu6",
    "leaky_relu",
    "elu",
    "celu",
    "silu",
    "gelu",
    "softshrink",
    "hardshrink",
    "threshold",
    "selu",
    "prelu",
    "square",
    "float_power",
    "clamp",
    "clip",
    "log_sigmoid",
    "softplus",
    "mish",
    "isfinite",
    "isin",
    "nan_to_num",
    "lerp",
    "outer",
    "__and__",
    "__or__",
    "__xor__",
    "rsub",
)
@rule("multiply", "subtract", "divide", "true_divide", "floor_divide", "absolute", "negative", "arctan2")
@rule("real", "imag", "special_expit")
@rule("greater", "greater_equal", "less", "less_equal", "not_equal", "complex", "polar", "bernoulli", "ger")
def every_operand(call: Call) -> Masked:
    """Alive where all operands are, after broadcasting."""
    out = call.run()
    alive = torch.ones(out.shape, dtype=torch.bool)
    for operand in call.operands:
        alive = alive & placed(call, operand, out)
    return same_memory(call, out) or Masked(out, alive)


def placed(call: Call, operand: Masked, out: Tensor) -> Tensor:
    """The operand's mask where broadcasting puts it."""
    alive = operand.alive
    if call.name == "prelu" and operand is not call["self"]:
        return alive.view(-1, *[1] * (out.dim() - 2)) if out.dim() > 1 else alive
    if call.name in {"outer", "ger"}:
        return alive.unsqueeze(-1) if operand is call["self"] else alive
    return alive


@rule("copy")
def copy(call: Call) -> Masked:
    """``self`` takes over what the source holds, and the source's mask with it."""
    return spread(call.run(), call["src"].alive)


@rule("glu")
def glu(call: Call) -> Masked:
    """The first half times the sigmoid of the second."""
    first, second = call["self"].alive.chunk(2, dim=call["dim"])
    return Masked(call.run(), first & second)


@rule("new_zeros", "new_ones", "new_full", "new_empty", always=True)
def constant(call: Call) -> Any:
    """A constant of a size of its own is not touched by what becomes of the tensor whose dtype it borrows."""
    return intact(call, call.run())


@rule("sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "size", "numel", "dim", always=True)
def measured(call: Call) -> Any:
    """Sizes are the original's."""
    return call.run()


@rule("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size", always=True)
def checked(call: Call) -> None:
    """Capture's own assertions speak of what the graph was captured with."""
    del call
