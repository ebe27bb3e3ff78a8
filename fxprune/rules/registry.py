"""The table of operation rules: one entry per ATen overload, looked up by the node's target.

A rule says what an operation demands of the axes of its arguments and what the axes of its result are:

    @rule(aten.linear.default, role=Role.CONTRACTION)
    def linear(trace, input, weight, bias=None):
        '''y[..., o] = sum_i x[..., i] w[o, i] + b[o]'''
        trace.unify(input[-1], weight[1])
        ...
        return (*input[:-1], weight[0])

It is called with the operation's own arguments, tensors replaced by their axes (a tuple, one axis per dimension),
everything else as it stands in the graph. `resize` rewrites the arguments that speak of sizes (`view`, `expand`,
`split`, ...) when the slim model is emitted; most operations need none.

An operation without a rule pins every axis that touches it (`fxprune.rules.unknown`), unless its ATen schema is tagged
pointwise, which is rule enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from torch._ops import OpOverload, OpOverloadPacket

from fxprune.errors import PluginError

if TYPE_CHECKING:
    from fxprune.rules.resizing import Resizing

Function = TypeVar("Function", bound=Callable[..., Any])
Resize = Callable[["Resizing"], tuple[tuple[Any, ...], dict[str, Any]]]


class Role(Enum):
    """What an operation does with cut slices; decides how the masked original is executed (design: what a cut means)."""

    POINTWISE = "pointwise"  # element by element, or moves elements: cut slices stay so
    CONTRACTION = "contraction"  # sums products along an axis: cut slices are silenced in every operand
    REDUCTION = "reduction"  # a statistic along an axis: it is taken over what is kept


@dataclass(frozen=True, slots=True)
class Rule:
    """How one ATen overload relates the axes of its arguments to those of its result."""

    function: Callable[..., Any]
    role: Role = Role.POINTWISE
    resize: Resize | None = None
    resized: OpOverload | None = None


_TABLE: dict[object, Rule] = {}


def rule(
    *operations: object,
    role: Role = Role.POINTWISE,
    resize: Resize | None = None,
    resized: OpOverload | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function as the rule of `operations`.

    Args:
        operations: ATen overloads, for example `torch.ops.aten.linear.default`; one of a package that may not be
            installed by its name, for example `"mylib.myop.default"`.
        role: what the operation does with cut slices.
        resize: rewrites arguments that speak of sizes; None where none do.
        resized: the operation that takes the rewritten arguments, where it is another one (`chunk` becomes
            `split_with_sizes`).

    Raises:
        PluginError: an operation is an overload packet (name the overload), or has a rule already.
    """
    for operation in operations:
        if isinstance(operation, OpOverloadPacket):
            names = ", ".join(f"{operation}.{name}" for name in operation.overloads())
            msg = f"{operation} has several overloads and a rule is for one: name it, one of {names}"
            raise PluginError(msg)

    def register(function: Function) -> Function:
        for operation in operations:
            other = _TABLE.get(operation)
            if other is not None and other.function is not function:
                owner = f"{other.function.__module__}.{other.function.__qualname__}"
                msg = f"{operation} has a rule already ({owner}); remove it with `unregister` first"
                raise PluginError(msg)
            _TABLE[operation] = Rule(function, role, resize, resized)
        return function

    return register


def unregister(operation: object) -> Rule | None:
    """Remove the rule of an operation and return it, so that another can take its place."""
    return _TABLE.pop(operation, None)


def find_rule(operation: object) -> Rule | None:
    """The rule for an operation, or None; pointwise operations share one rule by their schema's tag."""
    found = _TABLE.get(operation)
    if found is None and isinstance(operation, OpOverload):
        found = _TABLE.get(str(operation))
    if found is None and isinstance(operation, OpOverload) and is_pointwise(operation):
        return _TABLE[POINTWISE]
    return found


def is_pointwise(operation: OpOverload) -> bool:
    """Whether PyTorch itself declares the operation to act element by element."""
    import torch

    return torch.Tag.pointwise in operation.tags


POINTWISE = "pointwise"
"""Key of the rule that all operations tagged pointwise share."""
