"""Real numbers that a class computes from whole ones when it runs: `hidden_states * self.model_dim**-0.5`.

The cut model computes with the original's scales, so that a configuration must not change what one is computed from. What a
constructor computes is seen when it runs with tagged numbers; what other methods do is looked for in their text: powers and
square roots of attributes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType

from torch import nn

from fxprune.apply.slots import Slot
from fxprune.apply.tagged import Tagged, slots_of

_CONSTRUCTION = ("__init__", "_init_weights", "reset_parameters")
_ROOTS = ("sqrt", "rsqrt", "pow")


def scaling_slots(model: nn.Module) -> set[Slot]:
    """Fields behind tagged attributes of which a method takes a power or a root."""
    names: dict[type, set[str]] = {}
    found = set[Slot]()
    for module in model.modules():
        kind = type(module)
        if kind not in names:
            names[kind] = set(_attributes(kind))
        for holder in (module, getattr(module, "config", None)):
            values = (getattr(holder, name, None) for name in names[kind]) if holder is not None else ()
            found.update(slot for each in values if isinstance(each, Tagged) for slot in slots_of(each.expression))
    return found


def _attributes(kind: type) -> Iterator[str]:
    """Last names of attributes under powers and roots in the methods of a class."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and name not in _CONSTRUCTION:
                yield from _scaled(inspect.unwrap(method))


def _scaled(method: FunctionType) -> Iterator[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, SyntaxError):  # made at run time: there is no text
        return
    for node in ast.walk(tree):
        operands = [node.left] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) else []
        if isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            operands = node.args if called in _ROOTS else []
        for operand in operands:
            yield from (each.attr for each in ast.walk(operand) if isinstance(each, ast.Attribute))
