"""Random modules under random plans: the slim model computes what the independent reference interpreter says it must.

FXPRUNE_RANDOM_GRAPHS sets how many modules are drawn (default 150; the long run named in the README takes 20000), and
FXPRUNE_RANDOM_GRAPHS_FROM the first seed.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.analysis import Analysis, analyze_program
from fxprune.capture import capture
from fxprune.cut import Cut
from fxprune.passes.slim import slim_graph
from fxprune.passes.verify import relative_error, verify
from fxprune.plan import Plan, slices_of
from fxprune.slim_module import SlimModule, assemble
from tests.randomgraphs import random_module
from tests.reference import masked_outputs
from tests.semantics.plans import random_cut

COUNT = int(os.environ.get("FXPRUNE_RANDOM_GRAPHS", "150"))
FIRST = int(os.environ.get("FXPRUNE_RANDOM_GRAPHS_FROM", "0"))
CHUNK = 10


def emit(analysis: Analysis, cut: Cut) -> SlimModule:
    program, propagation = analysis.program, analysis.propagation
    return assemble(program, slim_graph(program, propagation, cut), Plan({}, {}, {}), None)


def check(model: nn.Module, inputs: tuple[Tensor, ...], seed: int, plans: int = 2) -> None:
    """Compare under `plans` random plans, and under the one that keeps everything."""
    analysis = analyze_program(capture(model, inputs))
    program, propagation = analysis.program, analysis.propagation
    random = np.random.default_rng(seed)
    for _ in range(plans):
        cut = random_cut(analysis.groups, random)
        slim = emit(analysis, cut).eval()
        assert verify(program, propagation, cut, slim) < 1e-8
        expected = masked_outputs(
            program.graph_module, slices_of(program, propagation, cut), program.args, program.kwargs
        )
        with torch.no_grad():
            actual = tree_leaves(slim(*program.args, **program.kwargs))
        assert max(relative_error(a, b) for a, b in zip(expected, actual, strict=True)) < 1e-9
    whole = emit(analysis, Cut({}, {})).eval()
    with torch.no_grad():
        for a, b in zip(tree_leaves(model(*inputs)), tree_leaves(whole(*inputs)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("start", range(FIRST, FIRST + COUNT, CHUNK))
def test_random_graphs(start: int) -> None:
    for seed in range(start, min(start + CHUNK, FIRST + COUNT)):
        model, inputs = random_module(seed)
        try:
            check(model, inputs, seed)
        except Exception as error:
            error.add_note(f"seed {seed}: {model.describe()}")
            raise
