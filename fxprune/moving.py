"""What a graph has to follow when its module is moved or converted: devices and types that its operations name.

Where a model's Python says `torch.arange(n, device=x.device)`, the captured graph says the device that `x` was on. Such devices
are made those that the tensors have moved to. Types cannot be told apart alike: `.to(torch.float32)` of a norm stays what it is
in half precision, `.to(x.dtype)` next to it does not, and both look the same in the graph of a float32 model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module's tensors are, and their floating-point type (that of the first one)."""

    device: torch.device | None
    dtype: torch.dtype | None


def place_of(module: nn.Module) -> Place:
    """Device of the first parameter or buffer, and type of the first floating-point one."""
    tensors = [*module.parameters(), *module.buffers()]
    device = next((each.device for each in tensors), None)
    return Place(device, next((each.dtype for each in tensors if each.is_floating_point()), None))


def follow(module: GraphModule, before: Place) -> None:
    """Let the graphs of a module that was moved name its new device; warn where they name its former type."""
    after = place_of(module)
    if before.device is not None and after.device is not None and after.device != before.device:
        for graph_module in _graph_modules(module):
            _rename(graph_module, before.device, after.device)
    if before.dtype is not None and after.dtype != before.dtype:
        _warn(module, before.dtype, after.dtype)


def _graph_modules(module: GraphModule) -> list[GraphModule]:
    return [each for each in module.modules() if isinstance(each, GraphModule)]


def _rename(module: GraphModule, before: torch.device, after: torch.device) -> None:
    """Put one device in another's place, wherever an operation names it."""

    def moved(argument: Any) -> Any:
        return after if isinstance(argument, torch.device) and _same(argument, before) else argument

    for node in module.graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
    module.recompile()


def _same(first: torch.device, second: torch.device) -> bool:
    """Whether they are one device; one without an index is whichever of its kind is chosen."""
    return first.type == second.type and (None in {first.index, second.index} or first.index == second.index)


def _warn(module: GraphModule, before: torch.dtype, after: torch.dtype | None) -> None:
    named = [node for each in _graph_modules(module) for node in _naming(each, before)]
    if named:
        warnings.warn(
            f"{type(module).__name__} was captured in {before} and {len(named)} of its operations name that type, so that it "
            f"does not compute in {after} throughout, or cannot run. Convert the model before fxprune.compile, or use "
            "fxprune.apply, which gives your own class. torch.autocast works with the module as it was",
            stacklevel=5,
        )


def _naming(module: GraphModule, dtype: torch.dtype) -> Iterator[Node]:
    for node in module.graph.nodes:
        found: list[Any] = []
        map_aggregate((node.args, node.kwargs), found.append)
        if node.op == "call_function" and dtype in [each for each in found if isinstance(each, torch.dtype)]:
            yield node
