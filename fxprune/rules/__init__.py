"""Rules: how operations relate the axes of their arguments to those of their results.

Importing this package fills the table.
"""

from fxprune.rules import (
    attention,
    convolution,
    creation,
    elementwise,
    folding,
    lookup,
    normalisation,
    parts,
    pooling,
    products,
    recurrent,
    reduction,
    shape,
    writing,
)
from fxprune.rules.registry import Role, Rule, find_rule, rule, unregister
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace

__all__ = [
    "Arguments",
    "Resizing",
    "Role",
    "Rule",
    "Trace",
    "attention",
    "convolution",
    "creation",
    "elementwise",
    "find_rule",
    "folding",
    "lookup",
    "normalisation",
    "parts",
    "pooling",
    "products",
    "recurrent",
    "reduction",
    "rule",
    "shape",
    "unregister",
    "writing",
]
