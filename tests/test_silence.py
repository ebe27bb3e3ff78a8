"""The model with switches computes what the slim model as cut computes, and nothing else than the original without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxprune.analysis import Analysis, analyze
from fxprune.passes.masked import MaskedOriginal
from fxprune.passes.silence import silenced_model
from fxprune.passes.verify import full_precision
from tests.randomgraphs import random_module


def random_kept(analysis: Analysis, seed: int) -> dict[str, Any]:
    """About 60 % of every group, another choice for each outer index of nested ones."""
    random = np.random.default_rng(seed)
    kept = {}
    for group in analysis.groups:
        count = max(1, int(0.6 * group.size))
        rows = 1 if group.outer is None else group.outer.size
        chosen = np.stack([np.sort(random.permutation(group.size)[:count]) for _ in range(rows)])
        kept[group.name] = chosen if group.outer is not None else chosen[0]
    return kept


def outputs(value: Any) -> list[Tensor]:
    return [each for each in tree_leaves(value) if isinstance(each, Tensor)]


def assert_close(actual: Any, expected: Any) -> None:
    for a, b in zip(outputs(actual), outputs(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 + 1e-4 * float(b.abs().max() if b.numel() else 0))


@pytest.mark.parametrize("seed", range(60))
def test_silencing_a_random_graph_computes_what_the_masked_original_does(seed: int) -> None:
    model, inputs = random_module(seed + 4000)
    model.eval()
    analysis = analyze(model, inputs)
    kept = random_kept(analysis, seed)
    with torch.no_grad(), full_precision():
        module = silenced_model(analysis)
        torch.manual_seed(0)
        whole = module(*inputs)
        torch.manual_seed(0)
        assert_close(whole, model(*inputs))
        torch.manual_seed(0)
        with module.silenced(kept):
            actual = module(*analysis.program.args)
        cut = analysis.cut(kept)
        torch.manual_seed(0)
        reference = MaskedOriginal(analysis.program, analysis.propagation, cut)
        flat = [each.clone() if isinstance(each, Tensor) else each for each in tree_leaves(analysis.program.args)]
        assert_close(actual, reference.run(*flat, enable_io_processing=False))
