"""Kinds: groups that are alike over layers, and the uniform search over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.kinds import find_kinds, template, tied_ranges
from fxprune.search import search
from fxprune.search.ties import Tie
from fxprune.widths import Range
from tests.search.synthetic import make_model
from tests.tiny_languages import IDS, gpt2, llama


@pytest.fixture(scope="module")
def analysis() -> fxprune.Analysis:
    return fxprune.analyze(llama(), (IDS,))


def test_what_is_alike_in_all_layers_is_one_kind(analysis: fxprune.Analysis) -> None:
    kinds = {kind.name: (kind.size, len(kind.groups)) for kind in find_kinds(analysis)}
    assert kinds == {
        "model.embed_tokens": (64, 1),
        "model.layers.{0..2}.self_attn.q_proj:features#1": (2, 3),
        "model.layers.{0..2}.self_attn.q_proj:features#2": (4, 3),
        "model.layers.0.self_attn.q_proj:features#3": (4, 1),
        "model.layers.{0..2}.self_attn.v_proj": (8, 3),
        "model.layers.{0..2}.mlp.gate_proj": (96, 3),
    }


def test_groups_that_are_named_otherwise_in_the_first_layer_are_alike_all_the_same() -> None:
    """GPT-2's hidden features are named after the first layer, which makes names in it longer."""
    sizes = [(kind.size, len(kind.groups)) for kind in find_kinds(fxprune.analyze(gpt2(), (IDS,)))]
    assert sizes == [(32, 1), (4, 2), (8, 2), (8, 2), (128, 2)]


def test_layers_of_other_sizes_are_other_kinds() -> None:
    def block(width: int) -> nn.Module:
        return nn.TransformerEncoderLayer(16, 2, width, batch_first=True)

    model = nn.Sequential(block(32), block(32), block(64)).eval()
    kinds = [kind.name for kind in find_kinds(fxprune.analyze(model, torch.randn(2, 5, 16))) if "linear1" in kind.name]
    assert kinds == ["{0,1}.linear1", "2.linear1"]


def test_only_numbers_of_repeated_modules_are_taken_out() -> None:
    assert template("h.10.attn1.w2", {"h.10"}) == "h.*.attn1.w2"
    assert template("h.10.attn1.w2", {"h.10", "h.10.attn1"}) == "h.*.attn*.w2"


def test_a_kind_keeps_the_strictest_of_its_groups_ranges(analysis: fxprune.Analysis) -> None:
    kind = next(kind for kind in find_kinds(analysis) if kind.size == 96)
    ranges = dict(zip(kind.groups, (Range(8, 8), Range(12, 12), Range(8, 40)), strict=True))
    assert set(tied_ranges(ranges, [kind]).values()) == {Range(24, 40)}


@pytest.mark.parametrize("scorer", ["magnitude", "curves"])
def test_uniform_keeps_one_width_per_kind_within_the_budget(scorer: str, analysis: fxprune.Analysis) -> None:
    model = llama()
    slim = fxprune.compile(
        model,
        {"params": "60%"},
        example_inputs=(IDS,),
        scorer=Curves() if scorer == "curves" else scorer,
        search="uniform",
    )
    for kind in find_kinds(analysis):
        assert len({slim.plan.widths[name] for name in kind.groups}) == 1
    params = next(metric for metric in slim.report.metrics if metric.name == "params")
    assert params.after <= 0.6 * params.before
    if scorer == "curves":  # the feed-forward features lose nothing
        assert slim.plan.widths["model.layers.1.mlp.gate_proj"][0] < 96 * 0.2
        assert slim.plan.widths["model.embed_tokens"] == (64, 64)


class Curves:
    """Sensitivities for all groups: only feed-forward features cost nothing."""

    name = "curves"
    needs: frozenset[str] = frozenset()

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        curves = {
            group.name: fxprune.Curve((1, group.size), (0.0 if "mlp" in group.name else 1.0, 0.0))
            for group in context.groups
        }
        return fxprune.Scores(self.name, {g.name: np.ones(g.shape) for g in context.groups}, curves)


def test_groups_that_keep_their_width_are_not_searched(analysis: fxprune.Analysis) -> None:
    whole = frozenset(group.name for group in analysis.groups if "self_attn" in group.name)
    importance = {group.name: np.ones(group.shape) for group in analysis.groups}
    scores = fxprune.Scores("whole", importance, whole=whole, search="uniform")
    slim = fxprune.compile(llama(), {"params": "60%"}, example_inputs=(IDS,), scores=scores)
    assert slim.plan.search == "uniform"
    assert all(kept == size for name, (kept, size) in slim.plan.widths.items() if name in whole)
    assert slim.plan.widths["model.layers.2.mlp.gate_proj"][0] < 96


@pytest.mark.parametrize("joint", [False, True])
def test_tied_groups_meet_the_limits_together(joint: bool) -> None:
    costs, choices = make_model(3, 12, 8)
    limits = {metric: 0.6 * float(each[0]) for metric, each in costs.evaluate(costs.sizes[None]).items()}
    alike = [choice for choice in choices if np.array_equal(choice.widths, choices[0].widths)]
    names = tuple(choice.group for choice in alike)
    assert len(names) > 1
    ties = [Tie(names, int(choices[0].widths[-1]))]
    found = search(costs, limits, choices, "uniform", ties, joint=joint)
    assert len({found[name] for name in names}) == 1
    usage = costs.evaluate(np.array([list(found.values())]), tuple(limits))
    assert all(usage[metric][0] <= limit for metric, limit in limits.items())
