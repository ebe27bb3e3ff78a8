"""FastNAS: what is measured, how often, and what it makes of scores."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError
from fxprune.passes.fastnas import FastNAS, candidate_widths
from fxprune.scorer import Context


class Images(nn.Module):
    """Two convolutions with BatchNorm, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.first(images)).relu()
        x = self.norm2(self.second(x)).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


IMAGES = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def model_and_score() -> tuple[nn.Module, Any, list[int]]:
    """A model, minus the distance of a model's outputs to its own, and a counter of evaluations."""
    torch.manual_seed(0)
    model = Images().eval()
    expected = model(IMAGES).detach()
    count = [0]

    def score(candidate: nn.Module) -> float:
        assert not candidate.training
        count[0] += 1
        return -float((candidate(IMAGES).detach() - expected).square().mean())

    return model, score, count


def context_of(model: nn.Module, score: Any, **given: Any) -> Context:
    return Context(model, fxprune.analyze(model, IMAGES), score=score, **given)


def test_the_whole_map_measures_what_a_model_cut_there_scores() -> None:
    model, score, count = model_and_score()
    context = context_of(model, score)
    scores = FastNAS(share=1.0, smooth=0.0).score(context)
    widths = {group.name: candidate_widths(context, group, 0.05) for group in context.groups}
    assert count[0] == sum(len(each) - 1 for each in widths.values()) + 1 == scores.effort["evaluations"]
    for group in context.groups:
        consumer = "second.weight" if group.name == "first" else "head.weight"
        order = np.argsort(-scores.importance[group.name], kind="stable")
        worst = 0.0
        for width, loss in reversed(list(zip(*_curve(scores, group.name), strict=True))):
            cut = copy.deepcopy(model)
            with torch.no_grad():
                cut.get_parameter(consumer)[:, order[width:].tolist()] = 0
            worst = max(worst, -score(cut))
            assert loss == pytest.approx(worst, rel=1e-4, abs=1e-9)


def _curve(scores: fxprune.Scores, group: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return scores.sensitivity[group].widths, scores.sensitivity[group].loss


def test_a_third_of_the_evaluations_comes_close_to_the_whole_map() -> None:
    model, score, count = model_and_score()
    whole = FastNAS(share=1.0, smooth=0.0).score(context_of(model, score))
    count[0] = 0
    part = FastNAS(smooth=0.0).score(context_of(model, score))
    assert count[0] == part.effort["evaluations"]
    assert count[0] - 1 <= -(-(whole.effort["evaluations"] - 1) // 3)
    for name, curve in whole.sensitivity.items():
        np.testing.assert_allclose(part.sensitivity[name].loss, curve.loss, atol=0.2 * max(curve.loss))


def test_a_group_that_loses_nothing_is_measured_once() -> None:
    model, _, _ = model_and_score()
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
    constant = lambda candidate: float(candidate(IMAGES).sum())  # noqa: E731
    scores = FastNAS(smooth=0.0).score(context_of(model, constant))
    assert scores.effort["evaluations"] == 1 + len(scores.importance)
    assert all(max(curve.loss) == 0 for curve in scores.sensitivity.values())


def test_batchnorm_is_recalibrated_for_candidates_and_left_as_it_was() -> None:
    model, score, _ = model_and_score()
    before = copy.deepcopy(model.state_dict())
    calibrated = FastNAS(smooth=0.0).score(context_of(model, score, data=[IMAGES]))
    plain = FastNAS(smooth=0.0).score(context_of(model, score))
    assert calibrated.sensitivity != plain.sensitivity
    again = FastNAS(smooth=0.0).score(context_of(model, score, data=[IMAGES]))
    assert again.sensitivity == calibrated.sensitivity
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_curves_are_monotone_and_smoothing_breaks_ties() -> None:
    model, _, _ = model_and_score()
    coarse = lambda candidate: round(float(candidate(IMAGES).std()), 1)  # noqa: E731
    scores = FastNAS(smooth=0.1).score(context_of(model, coarse))
    for curve in scores.sensitivity.values():
        assert all(a > b for a, b in pairwise(curve.loss))


def test_compile_takes_fastnas_where_a_score_is_given() -> None:
    model, score, _ = model_and_score()
    slim = fxprune.compile(model, {"flops": "60%", "params": "70%"}, example_inputs=IMAGES, score=score, align=4)
    assert slim.plan.scorer == "fastnas"
    assert slim.scores is not None
    assert f"fastnas: {slim.scores.effort['evaluations']} evaluations" in slim.report.notes
    assert all(width[0] % 4 == 0 for width in slim.plan.widths.values())


@pytest.mark.parametrize(
    ("score", "message"),
    [(lambda _: float("nan"), "nan for the original"), (lambda _: "good", "returned a str"), (lambda _: None, "None")],
)
def test_a_score_that_is_no_number_is_explained(score: Any, message: str) -> None:
    model, _, _ = model_and_score()
    with pytest.raises(InputError, match=message):
        FastNAS().score(context_of(model, score))


def test_a_score_may_copy_the_model_but_not_change_it() -> None:
    model, score, _ = model_and_score()
    before = copy.deepcopy(model.state_dict())
    FastNAS(share=0.0).score(context_of(model, lambda candidate: score(copy.deepcopy(candidate))))

    def training(candidate: nn.Module) -> float:
        with torch.no_grad():
            next(candidate.parameters()).mul_(0.99)
        return float(score(candidate))

    with pytest.raises(InputError, match="changed the model's weights"):
        FastNAS().score(context_of(model, training))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_a_single_sample_at_the_end_of_the_data_is_left_out_of_statistics() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 32)
            self.norm = nn.BatchNorm1d(32)
            self.last = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(self.norm(self.first(x)).relu())
            return logits

    torch.manual_seed(0)
    x = torch.randn(9, 6)
    score = lambda candidate: float(candidate(x).std())  # noqa: E731
    model = Flat().eval()
    slim = fxprune.compile(model, "60%", data=[x[:8], x[8:]], score=score, example_inputs=x[:2], reconstruct=False)
    assert slim.plan.scorer == "fastnas"
    with pytest.raises(InputError, match="only batches of one sample"):
        fxprune.compile(model, "60%", data=[x[8:]], score=score, example_inputs=x[:2], reconstruct=False)


@pytest.mark.parametrize("options", [{"step": 2.0}, {"step": 0.0}, {"smooth": -1.0}, {"recalibration_batches": 0}])
def test_options_that_say_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="0 < step < 1"):
        FastNAS(**options)
