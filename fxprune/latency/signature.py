"""Signatures: a text for each fragment that is the same for all that take the same time at the same sizes.

It holds the operations with their arguments, where operands come from, dtypes, shapes as expressions over the basis, memory
formats, and the original sizes of the basis; no names of the model. ResNet's sixteen blocks have a dozen signatures, the layers
of a transformer three or four.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.analysis import Analysis
from fxprune.axes import Axes, Axis, Product, Variable
from fxprune.latency.basis import key_of
from fxprune.latency.fragments import Fragment, attributes_of
from fxprune.passes.slim import axes_of


def signature_of(analysis: Analysis, fragment: Fragment) -> str:
    """The text of a fragment."""
    places = {key_of(axis): at for at, axis in enumerate(fragment.basis)}
    names: dict[Node, str] = {node: f"i{at}" for at, node in enumerate(fragment.inputs)}
    tensors = {name: f"t{at}" for at, name in enumerate(fragment.tensors)}
    for reader in attributes_of(fragment):
        names[reader] = tensors[analysis.program.canonical(str(reader.target))]
    names |= {node: f"n{at}" for at, node in enumerate(fragment.nodes)}
    lines = [f"{at}={axis.size}" for at, axis in enumerate(fragment.basis)]
    lines += [f"{names[node]}: {_value(node.meta['val'], _axes(analysis, node), places)}" for node in fragment.inputs]
    for name, own in tensors.items():
        tensor = analysis.program.tensor(name)
        lines.append(f"{own}: {_value(tensor, analysis.propagation.tensors.get(name), places)}")
    lines += [f"{names[node]} = {node.target}{_arguments(node, names)}" for node in fragment.nodes]
    return "\n".join([*lines, " ".join(names[node] for node in fragment.outputs)])


def _axes(analysis: Analysis, node: Node) -> Axes | None:
    found = axes_of(analysis.propagation, node)
    return found[0] if len(found) == 1 else None


def _value(value: Any, axes: Axes | None, places: Mapping[Hashable, int]) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    shape = map(str, value.shape) if axes is None else (_expression(axis, places) for axis in axes)
    last = value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
    return f"{value.dtype} {value.device.type} [{', '.join(shape)}]" + " channels last" * last


def _expression(axis: Axis, places: Mapping[Hashable, int]) -> str:
    place = places.get(key_of(axis))
    if place is not None:
        return f"p{place}"
    if isinstance(axis, Variable):
        return str(axis.size)
    sign, children = ("*", axis.factors) if isinstance(axis, Product) else ("+", axis.parts)
    return f"({sign.join(_expression(child, places) for child in children)})"


def _arguments(node: Node, names: Mapping[Node, str]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, Node):
            return names[value]
        if isinstance(value, list | tuple):
            return f"({', '.join(map(shown, value))})"
        return repr(value)

    keywords = [f"{name}={shown(value)}" for name, value in sorted(node.kwargs.items())]
    return f"({', '.join([*map(shown, node.args), *keywords])})"
