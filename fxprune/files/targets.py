"""Functions that a graph may call, by name: a fixed list, looked up, never imported or evaluated.

ATen operations by their overloads (`aten::add.Tensor`), those of `operations.ATEN` only; arithmetic on sizes and `getitem`
by name; and operations of two libraries whose models fxprune prunes, which have to be there to register them.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch._ops import OpOverload

from fxprune.errors import CheckpointError
from fxprune.files.operations import ATEN
from fxprune.safe_json import shown, text

Function: TypeAlias = Callable[..., Any]

_OPERATORS = (
    "getitem add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ xor not_ invert lshift rshift"
)
_SYMBOLIC = "sym_float sym_int sym_max sym_min sym_not sym_ite sym_sum"
_MATHEMATICAL = "ceil floor sqrt trunc log2 exp cos sin pow"

FUNCTIONS: Mapping[str, Function] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS.split()},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC.split() if hasattr(torch, name)},
    **{f"math.{name}": getattr(math, name) for name in _MATHEMATICAL.split()},
}
"""Functions that are no operations."""
LIBRARIES: Mapping[str, tuple[str, frozenset[str]]] = {
    "torchvision": ("torchvision", frozenset({"deform_conv2d", "nms", "ps_roi_align", "ps_roi_pool", "roi_align"})),
    "transformers": ("transformers.integrations.moe", frozenset({"grouped_mm_fallback"})),
}
"""Namespace of operations -> the module of this installation that registers them, and their names."""

_NAMES = {function: name for name, function in FUNCTIONS.items()}


def name_of(target: object) -> str:
    """What a file calls a function.

    Raises:
        CheckpointError: it is not one of those that files may name.

    Example:
        >>> name_of(torch.ops.aten.add.Tensor)
        'aten::add.Tensor'
    """
    if isinstance(target, OpOverload):
        name = f"{target._schema.name}.{target._overloadname}"
        if _is_known(*_split(name)):
            return name
    elif callable(target) and target in _NAMES:
        return _NAMES[target]
    msg = (
        f"the graph calls {target}, which is not among the operations that files may name (fxprune/files/operations.py); "
        "save the state dict instead, and the plan beside it"
    )
    raise CheckpointError(msg)


def function_of(name: object, what: str) -> Function:
    """The function of that name.

    Raises:
        CheckpointError: there is none that files may name.

    Example:
        >>> function_of("aten::add.Tensor", "an example") is torch.ops.aten.add.Tensor
        True
        >>> function_of("aten::from_file.default", "an example")
        Traceback (most recent call last):
        fxprune.errors.CheckpointError: an example calls 'aten::from_file.default', which no file may
    """
    name = text(name, what)
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    namespace, operation, overload = _split(name)
    if not _is_known(namespace, operation, overload):
        raise CheckpointError(f"{what} calls {shown(name)}, which no file may")
    packet = getattr(getattr(torch.ops, namespace), operation, None) if _is_there(namespace) else None
    if packet is None or overload not in packet.overloads():
        missing = f" ({LIBRARIES[namespace][0]} is not installed, or another version)" if namespace in LIBRARIES else ""
        raise CheckpointError(f"{what} calls {name}, which this version of PyTorch does not have{missing}")
    found: OpOverload = getattr(packet, overload)
    if any(argument.is_out for argument in found._schema.arguments):
        raise CheckpointError(f"{what} calls {shown(name)}, which no file may")
    return found


def _split(name: str) -> tuple[str, str, str]:
    namespace, _, rest = name.partition("::")
    operation, _, overload = rest.partition(".")
    return namespace, operation, overload or "default"


def _is_known(namespace: str, operation: str, overload: str) -> bool:
    if not overload.isidentifier():
        return False
    if namespace == "aten":
        return operation in ATEN or (not operation.startswith("_") and operation.removesuffix("_") in ATEN)
    return namespace in LIBRARIES and operation in LIBRARIES[namespace][1]


def _is_there(namespace: str) -> bool:
    """Whether the library that registers a namespace's operations can be had."""
    if namespace in LIBRARIES:
        try:
            importlib.import_module(LIBRARIES[namespace][0])
        except (ImportError, RuntimeError):
            return False
    return True
