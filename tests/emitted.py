"""Emitted modules that keep everything, for tests of what is done to their graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from fxprune.latency.building import cut_at
from fxprune.passes.layout import simplify_layout
from fxprune.passes.slim import slim_graph
from fxprune.slim_module import build_module


def as_emitted(model: nn.Module, x: Tensor) -> GraphModule:
    """The emitted module that keeps everything."""
    analysis = fxprune.analyze(model, x)
    emitted = slim_graph(
        analysis.program, analysis.propagation, cut_at(analysis, [group.size for group in analysis.groups])
    )
    module, _ = build_module(GraphModule, "Kept", analysis.program, emitted.graph, emitted.tensors, emitted.constants)
    return module


def laid_out(model: nn.Module, x: Tensor) -> tuple[GraphModule, bool]:
    """The same with its layout simplified, which has to compute what it did and what the model does; whether a rule fit."""
    module, expected = as_emitted(model, x), model(x)
    before = module(x)
    changed = simplify_layout(module)
    after = module(x)
    torch.testing.assert_close(before, expected)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(after, expected)
    return module, changed
