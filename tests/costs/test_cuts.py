"""Costs at random widths against the slim models of those widths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fxprune.analysis import Analysis, analyze
from fxprune.capture import capture
from fxprune.errors import InputError
from fxprune.passes.slim import slim_graph
from fxprune.plan import Plan
from fxprune.slim_module import SlimModule, assemble
from tests.costs.count import counted, parameters, weight_bytes
from tests.costs.eager import live_bytes
from tests.costs.nets import NETS, REAL, Residual, slow, torchvision_model

_PLAN = Plan(kept={}, slices={}, widths={}, budget={}, scorer="", search="", seed=0, signature={}, versions={})


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_random_cuts(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    build, shape = NETS[name]
    _compare(build(), torch.randn(shape), seed)


@pytest.mark.parametrize("name", ["resnet18", "small vit", "small densenet", *map(slow, REAL)])
def test_random_cut_of_a_torchvision_model(name: str) -> None:
    size = 224 if name == "vit_b_16" else 64
    _compare(torchvision_model(name), torch.randn(1, 3, size, size), seed=0)


def test_a_model_built_by_hand() -> None:
    x = torch.randn(2, 3, 9, 9)
    costs = analyze(Residual(), x).costs
    names = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    assert names == {"stem": 12, "up": 20, "tail": 16}
    for widths in ((5, 20, 3), (12, 1, 9), (7, 13, 16)):
        made = Residual(*widths).eval()
        got = costs.evaluate(np.array([widths]))
        assert got["flops"] == counted(made, x)
        assert got["params"] == parameters(made)


def test_nothing_cut_is_the_original() -> None:
    x = torch.randn(2, 3, 9, 9)
    costs = analyze(Residual(), x).costs
    assert costs.original == {metric: values[0] for metric, values in costs.evaluate(costs.sizes[None]).items()}
    assert costs.original["flops"] == counted(Residual().eval(), x)


def test_a_narrower_group_never_costs_more() -> None:
    analysis = analyze(NETS["attention"][0](), torch.randn(1, 7, 6))
    widths = _widths(analysis, np.random.default_rng(0), 200)
    wider = np.minimum(widths + 1, analysis.costs.sizes)
    for metric, values in analysis.costs.evaluate(widths).items():
        assert (values <= analysis.costs.evaluate(wider)[metric]).all()


def test_unusable_arguments_are_refused() -> None:
    costs = analyze(Residual(), torch.randn(2, 3, 9, 9)).costs
    with pytest.raises(InputError, match=r"widths must be \[candidates, 3 groups\]"):
        costs.evaluate(costs.sizes)
    with pytest.raises(InputError, match="costs are known for flops, params, memory"):
        costs.evaluate(costs.sizes[None], ("latency",))


def _compare(model: nn.Module, x: torch.Tensor, seed: int) -> None:
    analysis = analyze(model.eval(), x)
    widths = _widths(analysis, np.random.default_rng(seed), 1)
    slim = _emit(analysis, widths[0]).eval()
    got = {metric: values[0] for metric, values in analysis.costs.evaluate(widths).items()}
    assert got["params"] == parameters(slim)
    assert got["flops"] == counted(slim, x)
    again = capture(slim, x)
    assert got["memory"] == weight_bytes(again) + max(live_bytes(again))


def _widths(analysis: Analysis, random: np.random.Generator, count: int) -> NDArray[np.int64]:
    sizes = analysis.costs.sizes
    return random.integers(np.minimum(2, sizes), sizes + 1, size=(count, len(sizes)))


def _emit(analysis: Analysis, widths: NDArray[np.int64]) -> SlimModule:
    kept = {group.name: np.arange(width) for group, width in zip(analysis.groups, widths, strict=True)}
    graph = slim_graph(analysis.program, analysis.propagation, analysis.cut(kept))
    return assemble(analysis.program, graph, _PLAN, None)
