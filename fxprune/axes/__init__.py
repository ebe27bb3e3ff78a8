"""Axis expressions and their unification."""

from fxprune.axes.expression import Axes, Axis, Concat, Pin, Product, Variable, head, leaves, settle, size_at
from fxprune.axes.solver import Conflict, Solver

__all__ = [
    "Axes",
    "Axis",
    "Concat",
    "Conflict",
    "Pin",
    "Product",
    "Solver",
    "Variable",
    "head",
    "leaves",
    "settle",
    "size_at",
]
