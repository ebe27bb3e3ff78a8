"""A second opinion: the same graph in double precision, where rounding and a wrong slice can be told apart."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def in_double(module: GraphModule) -> GraphModule:
    """A copy of a graph module with all floating-point tensors, and all types that its operations name, in float64."""
    doubled = copy.deepcopy(module).double()
    for name, value in doubled.named_buffers():
        assert value.dtype not in _FLOATS, name
    for node in doubled.graph.nodes:
        node.args = torch.fx.node.map_aggregate(node.args, _double_type)
        node.kwargs = torch.fx.node.map_aggregate(node.kwargs, _double_type)
    doubled.recompile()
    return doubled


def double_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Flat inputs with floating-point tensors in float64."""
    return tuple(each.double() if isinstance(each, Tensor) and each.dtype in _FLOATS else each for each in inputs)


def _double_type(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _FLOATS else value
