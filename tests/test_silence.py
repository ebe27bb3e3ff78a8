"""The model with switches computes what the slim model as cut computes, and nothing else than the original without one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
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


class Norms(nn.Module):
    """A convolution by hand-written weight normalisation, a GroupNorm, and names that switches might take."""

    def __init__(self) -> None:
        super().__init__()
        self.silence_gate_0 = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Parameter(torch.randn(24, 16, 3, 3))
        self.norm = nn.GroupNorm(4, 24)
        self.silence_switch = nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.silence_gate_0(images)
        weight = self.inner / self.inner.flatten(1).norm(dim=1)[:, None, None, None]
        x = x + self.silence_switch(self.norm(torch.conv2d(x, weight, padding=1)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def norms() -> tuple[Analysis, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 6, 6)
    return analyze(Norms().eval(), images), images


def test_names_of_the_model_and_infinities_of_cut_slices_do_no_harm() -> None:
    analysis, images = norms()
    model = silenced_model(analysis)
    kept = random_kept(analysis, 1)
    with torch.no_grad(), full_precision(), model.silenced(kept):
        actual = model(images)
        expected = MaskedOriginal(analysis.program, analysis.propagation, analysis.cut(kept)).run(images)
    assert all(each.isfinite().all() for each in outputs(actual))
    assert_close(actual, expected)


def test_a_copy_is_silenced_as_the_original_and_can_be_changed_alone() -> None:
    analysis, images = norms()
    model = silenced_model(analysis)
    kept = random_kept(analysis, 1)
    with torch.no_grad():
        whole = model(images)
        model.silence(kept)
        silenced = model(images)
        copied = copy.deepcopy(model)
        assert torch.equal(copied(images), silenced)
        copied.silence({})
        for parameter in copied.parameters():
            parameter.add_(1)
        assert torch.equal(model(images), silenced)
        model.silence({})
        assert torch.equal(model(images), whole)


def test_an_operand_that_stands_twice_is_gated_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(5, 8)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            logits: Tensor = self.last(torch.nn.functional.linear(h, h))
            return logits

    torch.manual_seed(0)
    x = torch.randn(4, 5)
    model = Twice().eval()
    silenced = silenced_model(analyze(model, x, ignore=["last"]))
    (name,) = silenced.switch.spans
    with silenced.differentiable() as masks:
        silenced(x).sum().backward()
        found = silenced.by_group(masks.grad if masks.grad is not None else masks)[name]
    h = model.first(x).detach()
    scale = torch.ones(8, requires_grad=True)
    model.last((h * scale) @ h.T).sum().backward()
    assert scale.grad is not None
    np.testing.assert_allclose(found, scale.grad.numpy(), rtol=1e-5)
