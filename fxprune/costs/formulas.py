"""The table of FLOP formulas: one entry per ATen overload.

A formula takes the shape of the result (a tuple of shapes where there are several), then the operation's own
arguments with tensors replaced by their shapes, and returns the FLOPs as a monomial, a number, or several of these to
be added up:

    @flops(aten.mm.default)
    def mm(result, left, right):
        return 2 * volume(left) * right[1]

Sizes are monomials over the groups' widths and know only multiplication. An operation without a formula counts as 0
FLOPs, as `torch.utils.flop_counter` has it: it counts matrix products and convolutions, where one multiply or one add
is one FLOP, and nothing element-wise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch._ops import OpOverloadPacket
from torch.fx import Node

from fxprune.costs.polynomial import Monomial, Shape
from fxprune.costs.sizes import Sizes
from fxprune.errors import PluginError

Formula = TypeVar("Formula", bound=Callable[..., Any])

_TABLE: dict[object, Callable[..., Any]] = {}


def flops(*operations: object) -> Callable[[Formula], Formula]:
    """Register the decorated function as the FLOP formula of `operations`.

    Args:
        operations: ATen overloads, for example `torch.ops.aten.linear.default`.

    Raises:
        PluginError: an operation is an overload packet (name the overload), or has a formula already.
    """
    for operation in operations:
        if isinstance(operation, OpOverloadPacket):
            names = ", ".join(f"{operation}.{name}" for name in operation.overloads())
            msg = f"{operation} has several overloads and a formula is for one: name it, one of {names}"
            raise PluginError(msg)

    def register(function: Formula) -> Formula:
        for operation in operations:
            other = _TABLE.get(operation)
            if other is not None and other is not function:
                owner = f"{other.__module__}.{other.__qualname__}"
                msg = f"{operation} has a FLOP formula already ({owner}); remove it with `unregister_flops` first"
                raise PluginError(msg)
            _TABLE[operation] = function
        return function

    return register


def unregister_flops(operation: object) -> Callable[..., Any] | None:
    """Remove the formula of an operation and return it, so that another can take its place."""
    return _TABLE.pop(operation, None)


def node_flops(node: Node, sizes: Sizes) -> list[Monomial]:
    """FLOPs of one operation, to be added up."""
    formula = _TABLE.get(node.target)
    if formula is None:
        return []
    results = sizes.results(node)
    result = results[0] if len(results) == 1 else results
    found = formula(result, *_arguments(node.args, sizes), **_arguments(node.kwargs, sizes))
    return [each if isinstance(each, Monomial) else Monomial(each) for each in _several(found)]


def _several(found: Monomial | float | Iterable[Monomial | float]) -> Iterable[Monomial | float]:
    return found if isinstance(found, Iterable) else (found,)


def _arguments(value: Any, sizes: Sizes) -> Any:
    """An argument with nodes replaced: tensors by their shapes, symbolic sizes by numbers."""
    if isinstance(value, Node):
        return _argument(value, sizes)
    if isinstance(value, dict):
        return {name: _arguments(each, sizes) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_arguments(each, sizes) for each in value]
    return value


def _argument(node: Node, sizes: Sizes) -> Shape | tuple[Shape | None, ...] | int | None:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return sizes.results(node)
    if hasattr(value, "shape"):
        return sizes.results(node)[0]
    return None if value is None else sizes.real(value)
