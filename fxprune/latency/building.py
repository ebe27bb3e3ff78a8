"""Building what is timed: a fragment, or the whole model, at any widths of the groups.

A fragment's operations are copied into a graph of their own. Arguments that speak of sizes follow as they do in the rewrite
(`fxprune.passes.slim`); values from outside become inputs. Weights and inputs are random numbers in the dtype, on the device
and in the memory format of the originals: time depends on none of their values, except for indices, which are 0 and so valid
anywhere, and masks, which hide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from fxprune.analysis import Analysis
from fxprune.axes import Axes
from fxprune.cut import Cut
from fxprune.inputs import Inputs
from fxprune.latency.fragments import Fragment, attributes_of
from fxprune.passes.idle import drop_idle_views
from fxprune.passes.layout import simplify_layout
from fxprune.passes.masks import drop_idle_masks
from fxprune.passes.slim import axes_of, emit_node, slim_graph
from fxprune.slim_module import build_module
from fxprune.wording import WordedModule

Module = TypeVar("Module", bound=nn.Module)


def cut_at(analysis: Analysis, widths: Sequence[int]) -> Cut:
    """The cut that keeps the first indices of every group."""
    kept = {
        group.name: np.broadcast_to(np.arange(width), (*group.shape[:-1], width)).astype(np.int64)
        for group, width in zip(analysis.groups, widths, strict=True)
    }
    return analysis.cut(kept)


def build_whole(analysis: Analysis, widths: Sequence[int]) -> tuple[WordedModule, Inputs]:
    """The slim model with these widths in eval mode, and the example inputs."""
    program = analysis.program
    slim = slim_graph(program, analysis.propagation, cut_at(analysis, widths))
    drop_idle_masks(slim.graph, program.constants)
    drop_idle_views(slim.graph, {**slim.tensors, **slim.constants})
    module, _ = build_module(WordedModule, "Candidate", program, slim.graph, slim.tensors, slim.constants)
    simplify_layout(module)
    module.eval()
    return module, (program.args, dict(program.kwargs))


def build_fragment(analysis: Analysis, fragment: Fragment, widths: Sequence[int]) -> tuple[WordedModule, Inputs]:
    """A fragment with these widths of all groups, and inputs for it."""
    cut = cut_at(analysis, widths)
    graph, root, copies = Graph(), nn.Module(), dict[Node, Node]()
    inputs = [_input(analysis, node, cut) for node in fragment.inputs]
    for node in fragment.inputs:
        copies[node] = graph.placeholder(node.name)
    _place_tensors(analysis, fragment, cut, graph, root, copies)
    for node in fragment.nodes:
        copies[node] = emit_node(graph, node, copies, analysis.propagation, cut)
    graph.output(tuple(copies[node] for node in fragment.outputs))
    graph.lint()
    drop_idle_masks(graph, analysis.program.constants)
    module = WordedModule(root, graph, class_name="Fragment")
    simplify_layout(module, whole=False)
    devices = [*(each.device for each in inputs), *(each.device for each in analysis.program.tensors.values())]
    return located(module.eval(), devices[0]), (tuple(inputs), {})


def located(module: Module, device: torch.device) -> Module:
    """The module with a tensor on the device, by which backends tell where it runs, whether or not it has weights."""
    module.register_buffer("device_tensor", torch.empty(0, device=device), persistent=False)
    return module


def _place_tensors(
    analysis: Analysis,
    fragment: Fragment,
    cut: Cut,
    graph: Graph,
    root: nn.Module,
    copies: dict[Node, Node],
) -> None:
    """Parameters, buffers and constants, a `get_attr` for each node that reads one."""
    program = analysis.program
    names = {name: f"tensor_{at}" for at, name in enumerate(fragment.tensors)}
    for name, own in names.items():
        original = program.tensor(name)
        assert original is not None, f"{name} is a region, which no fragment holds"
        axes = analysis.propagation.tensors.get(name)
        root.register_buffer(own, _like(original, _shape(original, axes, cut)))
    for node in attributes_of(fragment):
        copies[node] = graph.get_attr(names[program.canonical(str(node.target))])


def _input(analysis: Analysis, node: Node, cut: Cut) -> Tensor:
    value: Any = node.meta["val"]
    axes = axes_of(analysis.propagation, node)
    return _like(value, _shape(value, axes[0] if axes else None, cut))


def _shape(value: Tensor, axes: Axes | None, cut: Cut) -> tuple[int, ...]:
    return tuple(map(int, value.shape)) if axes is None else tuple(cut.count(axis) for axis in axes)


def _like(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Numbers of the same dtype, device and memory format, made there; the user's random numbers are left alone."""
    device = value.device
    if value.dtype == torch.bool:
        made = torch.ones(shape, dtype=value.dtype, device=device)
    elif not value.is_floating_point():
        made = torch.zeros(shape, dtype=value.dtype, device=device)
    else:  # positive, as a variance has to be
        generator = None if value.is_meta else torch.Generator(device).manual_seed(0)
        made = (torch.rand(shape, generator=generator, device=device) * 0.1 + 0.01).to(value.dtype)
    last = value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
    return made.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
