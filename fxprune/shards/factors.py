"""What a configuration's fields have to become, read off the indices that a plan keeps.

A class that is built from a configuration whose numbers are tagged says where each size of its parameters comes from:
dimension 0 of a query projection is `num_attention_heads * head_dim`. The kept indices of that dimension, written in these
factors (row-major), say how many of each are left: 4 heads of 8 dimensions, kept as 0..7 and 24..31, are 2 of 4 heads and
8 of 8 dimensions. Every factor gives an equation, expression over fields = number.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.apply.slots import Slot
from fxprune.apply.tagged import Derived, Expression, Tagged, evaluate
from fxprune.plan import Indices, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Equation:
    """What a field, or an expression over fields, has to be.

    Attributes:
        expression: over the fields.
        value: the number wanted.
        name: the tensor that says so.
        inner: whether it counts what stands inside another factor, such as the dimensions of a head.
    """

    expression: Expression
    value: int
    name: str
    inner: bool


class Creations(TorchFunctionMode):
    """Remembers of every tensor that is made the tagged numbers of its sizes."""

    def __init__(self) -> None:
        """Nothing so far."""
        super().__init__()
        self.sizes: dict[int, tuple[Any, ...]] = {}
        self.made: list[Tensor] = []  # lest the memory of one be another's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and look at what it was given if it made a tensor of tagged sizes."""
        made = func(*args, **(kwargs or {}))
        sizes = args[0] if args and isinstance(args[0], tuple | list) else args
        if isinstance(made, Tensor) and any(isinstance(each, Tagged) for each in sizes) and len(sizes) == made.dim():
            self.sizes[_memory(made)] = tuple(sizes)
            self.made.append(made)
        return made

    def of(self, model: nn.Module) -> dict[str, tuple[Any, ...]]:
        """Parameter -> its sizes, tagged where they come from a field."""
        return {
            name: self.sizes[_memory(each)]
            for name, each in model.named_parameters(remove_duplicate=False)
            if _memory(each) in self.sizes
        }


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def equations(plan: Plan, sizes: Mapping[str, tuple[Any, ...]], values: Mapping[Slot, int]) -> Iterator[Equation]:
    """Every factor of every dimension of the parameters that remain.

    Args:
        plan: what is kept.
        sizes: parameter -> sizes, tagged.
        values: the fields as they are.
    """
    for name, own in sizes.items():
        if name not in plan.signature:
            continue
        slices = plan.slices.get(name, {})
        for dim, size in enumerate(own):
            if isinstance(size, Tagged):
                yield from _of_dimension(name, size.expression, slices.get(dim), int(size), values)


def _of_dimension(
    name: str, expression: Expression, kept: Indices | None, size: int, values: Mapping[Slot, int]
) -> Iterator[Equation]:
    parts = list(factors(expression))
    sizes = [evaluate(each, values) for each in parts]
    if kept is None:
        counts: list[int] | None = sizes
    elif isinstance(kept[0], list):
        counts = [len(kept[0])] if len(parts) == 1 else None
    else:
        counts = grid(np.asarray(kept, dtype=np.int64), sizes)
    if counts is None or int(np.prod(sizes)) != size:
        rows: Any = kept if kept is not None and not isinstance(kept[0], list) else (kept or [[]])[0]
        yield Equation(expression, len(rows) if kept is not None else size, name, inner=False)
        return
    for at, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if not isinstance(part, int):
            yield Equation(part, count, name, inner=any(not isinstance(each, int) for each in parts[:at]))


def factors(expression: Expression | int) -> Iterator[Expression | int]:
    """Factors of a product, from left to right."""
    if isinstance(expression, Derived) and expression.function is operator.mul:
        for each in expression.operands:
            yield from factors(each)
    else:
        yield expression


def grid(kept: NDArray[np.int64], sizes: list[int]) -> list[int] | None:
    """How many indices of each factor are kept; None where each index of one factor does not keep as many of the next.

    Example:
        >>> grid(np.array([0, 1, 4, 5]), [3, 2])
        [2, 2]
    """
    if len(sizes) == 1:
        return [len(kept)]
    inner = int(np.prod(sizes[1:]))
    first, counts = np.unique(kept // inner, return_counts=True)
    if len(set(counts.tolist())) != 1:
        return None
    rest = grid(kept[: counts[0]] % inner, sizes[1:])
    return None if rest is None else [len(first), *rest]
