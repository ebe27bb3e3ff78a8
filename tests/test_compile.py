"""`fxprune.compile` as a whole: budgets, `ignore`, reuse of scores, determinism, and its check of itself."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune.capture import capture
from tests.costs.count import counted, parameters
from tests.randomgraphs import random_module
from tests.reference import masked_outputs


class Net(nn.Module):
    """A residual network with a grouped layer, a gate and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.layer1 = self.block(48, 96)
        self.layer2 = self.block(48, 64)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 16, 1), nn.SiLU(), nn.Conv2d(16, 48, 1))
        self.classifier = nn.Sequential(nn.Linear(48, 80), nn.GELU(), nn.Dropout(0.2), nn.Linear(80, 10))

    @staticmethod
    def block(outside: int, inside: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(outside, inside, 1),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, inside, 3, padding=1, groups=8),
            nn.GroupNorm(8, inside),
            nn.ReLU(),
            nn.Conv2d(inside, outside, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.layer1(x)
        x = x + self.layer2(x) * self.gate(x).sigmoid()
        out: Tensor = self.classifier(x.mean((2, 3)))
        return out


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def half(budget: Any = "50%", **options: Any) -> fxprune.SlimModule:
    return fxprune.compile(net(), budget, **{"example_inputs": X} | options)


def used(slim: fxprune.SlimModule) -> dict[str, float]:
    return {metric.name: metric.after for metric in slim.report.metrics}


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("search", ["knapsack", "threshold", "uniform"])
@pytest.mark.parametrize("budget", ["80%", 0.5, "30%", 2e6, "1.5 MFLOPs"])
def test_budgets_hold_by_torchs_own_count(budget: Any, search: str) -> None:
    slim = half(budget, search=search)
    (limit,) = (metric.limit for metric in slim.report.metrics if metric.name == "flops")
    assert limit is not None
    assert counted(slim, X) == used(slim)["flops"] <= limit
    assert parameters(slim) == used(slim)["params"]
    assert slim.plan.search == search
    assert slim.report.error is not None
    assert slim.report.error < 1e-4


def test_several_limits_hold_at_once() -> None:
    before = {metric.name: metric.before for metric in half("100%").report.metrics}
    for limits in (
        {"flops": 0.5, "params": 0.9},
        {"flops": 0.9, "params": 0.5},
        {"flops": 0.7, "params": 0.7, "memory": 0.7},
        {"memory": 0.6},
        {"params": 15_000, "memory": "90%"},
    ):
        slim = half(limits)
        after = used(slim)
        for name, limit in limits.items():
            absolute = {metric.name: metric.limit for metric in slim.report.metrics}[name]
            assert absolute is not None
            assert after[name] <= absolute
            if isinstance(limit, float):
                assert absolute == pytest.approx(limit * before[name])
        assert slim.plan.budget == limits


def test_a_smaller_budget_gives_a_smaller_model() -> None:
    flops = [used(half(f"{share}%"))["flops"] for share in (90, 70, 50, 30, 15)]
    assert flops == sorted(flops, reverse=True)
    assert len(set(flops)) == 5


def test_outputs_keep_their_shape_and_inputs_too() -> None:
    slim = half("15%")
    assert slim(X).shape == (2, 10)
    assert shapes(slim)["stem.0.weight"][1] == 3
    assert shapes(slim)["classifier.3.weight"][0] == 10


@pytest.mark.parametrize(
    ("ignore", "held"),
    [
        (["layer1"], "layer1.*"),
        ("classifier", "classifier.*"),
        (["layer2.0"], "layer2.0.*"),
        (["layer*.3"], "layer?.3.*"),
        (["layer1.3.weight"], "layer1.3.weight"),
        (["layer?.0.bias"], "layer?.0.*"),
        (["stem.0", "gate"], "gate.*"),
    ],
)
def test_what_is_ignored_keeps_its_shape(ignore: Any, held: str) -> None:
    slim = half("75%", ignore=ignore)
    before, after = shapes(net()), shapes(slim)
    names = fnmatch.filter(before, held)
    assert names
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert any(before[name] != after[name] for name in before)
    assert any("ignored" in each.reason for each in slim.report.pinned)


def test_ignoring_everything_leaves_nothing_to_cut() -> None:
    with pytest.raises(fxprune.InfeasibleBudget, match=r"ignored \(\*\)"):
        half(ignore=["*"])
    assert half("100%", ignore=["*"]).plan.kept == {}


def test_it_is_deterministic() -> None:
    first, second = half({"flops": "50%", "memory": "80%"}), half({"flops": "50%", "memory": "80%"})
    assert first.plan.to_json() == second.plan.to_json()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert torch.equal(first(X), second(X))


def test_the_order_of_limits_does_not_matter() -> None:
    one, other = half({"flops": "50%", "params": "60%"}), half({"params": "60%", "flops": "50%"})
    assert one.plan.kept == other.plan.kept


def test_the_callers_seed_and_threads_do_not_matter() -> None:
    torch.manual_seed(1)
    first = fxprune.compile(net(), "50%", example_inputs=X)
    torch.manual_seed(2)
    assert fxprune.compile(net(), "50%", example_inputs=X).plan == first.plan


def test_scores_serve_for_another_budget() -> None:
    first = half("80%")
    again, scored = half("40%", scores=first.scores), half("40%")
    assert again.plan == scored.plan
    assert torch.equal(again(X), scored(X))
    assert again.scores is first.scores


def test_scores_serve_after_ignoring_some() -> None:
    scores = half("80%").scores
    again, scored = half("75%", scores=scores, ignore=["layer1"]), half("75%", ignore=["layer1"])
    assert again.plan == scored.plan


def test_without_verification_the_result_is_the_same() -> None:
    checked, unchecked = half(), half(verify=False)
    assert unchecked.report.error is None
    assert "not checked" in str(unchecked.report)
    assert unchecked.plan == checked.plan
    assert torch.equal(unchecked(X), checked(X))


def test_a_wrong_result_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight off is found: the check is one."""
    compiler: Any = __import__("importlib").import_module("fxprune.pruning")
    assemble = compiler.assemble

    def spoilt(*arguments: Any) -> Any:
        slim = assemble(*arguments)
        with torch.no_grad():
            slim.get_parameter("layer1.0.weight")[0] += 0.1
        return slim

    monkeypatch.setattr(compiler, "assemble", spoilt)
    with pytest.raises(fxprune.VerificationError, match="not handed out"):
        half()


def test_the_reference_interpreter_agrees() -> None:
    for ignore, align in (((), None), (("layer1",), 1), (("stem.0",), 4)):
        slim = half("35%" if not ignore else "75%", ignore=ignore, align=align)
        graph = capture(net(), X).graph_module
        (expected,) = masked_outputs(graph, slim.plan.slices, (X,))
        torch.testing.assert_close(slim(X), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2000), st.sampled_from([1, 2, None]))
def test_random_modules_agree_with_the_reference_interpreter(seed: int, align: int | None) -> None:
    model, inputs = random_module(seed)
    try:
        slim = fxprune.compile(model, "60%", example_inputs=inputs, align=align)
    except fxprune.InfeasibleBudget:
        return
    graph = capture(model, inputs).graph_module
    expected = masked_outputs(graph, slim.plan.slices, inputs)
    with torch.no_grad():
        found = tree_leaves(slim.eval()(*inputs))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4, msg=lambda text: f"{text}\n{model.describe()}")


def test_a_cut_from_analysis_is_the_same_cut() -> None:
    """The stages, called one by one, give what compile gives."""
    slim = half()
    analysis = fxprune.analyze(net(), X)
    cut = analysis.cut({name: np.array(kept) for name, kept in slim.plan.kept.items()})
    for name, axes in analysis.propagation.tensors.items():
        if name in slim.state_dict():
            found = cut.slice(net().state_dict()[name], axes)
            assert torch.equal(found, slim.state_dict()[name]), name


@pytest.fixture
def unknown_operation() -> Iterator[Any]:
    """An operation that no rule knows: the sum over all features, added to each."""
    with torch.library._scoped_library("fxprune_tests", "FRAGMENT") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: x + x.sum(-1, keepdim=True), "CompositeExplicitAutograd")
        library.impl("mystery", torch.empty_like, "Meta")
        yield torch.ops.fxprune_tests.mystery


class Unknown(nn.Module):
    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.operation(self.b(self.a(x).relu())))
        return out


def test_an_operation_without_a_rule_keeps_what_it_touches(unknown_operation: Any) -> None:
    slim = fxprune.compile(Unknown(unknown_operation), "60%", example_inputs=torch.randn(2, 8))
    assert shapes(slim)["b.weight"] == (64, slim.plan.widths["a"][0])
    assert shapes(slim)["c.weight"] == (4, 64)
    (note,) = (note for note in slim.report.notes if "without a rule" in note)
    assert "fxprune_tests.mystery" in note
    pinned = next(each for each in slim.report.pinned if each.operation and "mystery" in each.operation)
    assert {"b.weight:0", "c.weight:1"} <= set(pinned.axes)


def test_strict_raises_where_an_operation_has_no_rule(unknown_operation: Any) -> None:
    with pytest.raises(fxprune.GraphError, match=r"mystery.*has no rule") as caught:
        fxprune.compile(Unknown(unknown_operation), "60%", example_inputs=torch.randn(2, 8), strict=True)
    assert "test_compile.py" in str(caught.value)
    assert "@fxprune.rule" in str(caught.value)
