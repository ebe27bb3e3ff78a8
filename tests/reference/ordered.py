"""Operations whose result depends on every element along an axis, or on their order: nothing may be cut along it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from tests.reference.calls import Call, rule
from tests.reference.values import spread, uniform


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
@rule("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "diff")
@rule("sort", "argsort", "topk", "argmax", "argmin", "max.dim", "min.dim", "median.dim", "mode", "kthvalue")
def along(call: Call) -> Any:
    """The mask without the axis, or along the axis as it was before."""
    masked, dim = call["self"], call.get("dim")
    assert all(operand.whole for operand in call.operands if operand is not masked)
    dims = tuple(range(masked.value.dim())) if dim is None else (dim,)
    line = uniform(masked.alive, dims, call.name.strip("_").replace("log_", ""))
    return tree_map(lambda out: spread(out, fitted(line, dims, out)), call.run())


def fitted(line: Tensor, dims: tuple[int, ...], out: Tensor) -> Tensor:
    """The mask with as many axes as the result."""
    return line if out.dim() == line.dim() else line.squeeze(dims)
