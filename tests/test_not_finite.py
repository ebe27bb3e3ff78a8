"""Values that are not finite in the data, or made on the way: every scorer names the batch and where they come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import InputError
from tests.tiny_languages import IDS, llama

BATCHES = [torch.linspace(-1, step, 4 * 3 * 36).reshape(4, 3, 6, 6) for step in range(1, 5)]


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)).eval()


class Overflows(nn.Module):
    """Infinity on the way for large inputs; finite again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(torch.exp(100 * self.first(x)))
        out: Tensor = self.last(torch.nan_to_num(hidden, 0.0, 1.0, -1.0))
        return out


class Masked(nn.Module):
    """What is infinite here is meant to be."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu())
        return out.masked_fill(torch.arange(4) == 2, float("-inf"))


def with_value(value: float) -> list[Tensor]:
    """Batches, the third of which holds it once."""
    found = [each.clone() for each in BATCHES]
    found[2][1, 0, 3, 3] = value
    return found


def small_but_one() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(4, 8) * (3.0 if at == 2 else 0.01) for at in range(4)]


def loss(output: Tensor, _: object) -> Tensor:
    return output.square().mean()


def options(scorer: str) -> dict[str, Any]:
    """What compile is given for a scorer."""
    given: dict[str, Any] = {"scorer": scorer, "progress": False}
    if scorer == "torch_pruning":
        given["scorer"] = pytest.importorskip("torch_pruning").importance.TaylorImportance()
    if scorer in ("gradnas", "taylor", "torch_pruning"):
        given["loss"] = loss
    if scorer == "fastnas":
        given["score"] = lambda model: 0.0
    return given


SCORERS = ["fastnas", "gradnas", "magnitude", "minitron", "obs", "taylor", "torch_pruning"]


def said(model: nn.Module, data: list[Tensor], scorer: str) -> str:
    with pytest.raises(InputError) as caught:
        fxprune.compile(model, "60%", example_inputs=data[0], data=data, **options(scorer))
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("scorer", SCORERS)
def test_data_that_is_not_finite(scorer: str, value: float) -> None:
    message = said(convolutions(), with_value(value), scorer)
    assert message.endswith(f"in batch 3 of data holds {'nan' if value != value else 'infinity'}")


@pytest.mark.parametrize("scorer", SCORERS)
def test_what_overflows_on_the_way(scorer: str) -> None:
    torch.manual_seed(0)
    message = said(Overflows(), small_but_one(), scorer)
    assert "For batch 3 of data, the first value that is not finite (infinity) is computed here" in message
    assert "aten.exp" in message
    assert "torch.exp(100 * self.first(x))" in message


@pytest.mark.parametrize("scorer", ["fastnas", "magnitude", "obs"])
def test_statistics_that_overflow(scorer: str) -> None:
    """Everything is finite but the variance, and outputs through an infinite variance are finite again."""
    data = [each * (1e30 if at == 2 else 1.0) for at, each in enumerate(BATCHES)]
    assert "the statistics of BatchNorm layer '1' on batch 3 of data are not finite" in said(
        convolutions(), data, scorer
    )


@pytest.mark.parametrize("scorer", ["fastnas", "magnitude", "obs"])
def test_what_is_meant_to_be_infinite(scorer: str) -> None:
    torch.manual_seed(0)
    data = [torch.randn(8, 8) for _ in range(4)]
    slim = fxprune.compile(Masked(), "60%", example_inputs=data[0], data=data, **options(scorer))
    assert slim.scores is not None
    assert all(curve.loss[0] > 0 for curve in slim.scores.sensitivity.values())
    assert all(bool(each.isfinite().all()) for each in slim.parameters())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "inf",
            r"For batch 2 of data, the first value that is not finite \(infinity\) is computed here:\n  node: embedding",
        ),
        ("nan", r"The model's model\.embed_tokens\.weight holds nan"),
    ],
)
def test_nothing_infinite_of_an_attention_is_blamed(value: str, expected: str) -> None:
    """Its mask is infinite for every input; the embedding of one token is for some."""
    model = llama(1)
    with torch.no_grad():
        model.get_submodule("model.embed_tokens").weight[7] = float(value)
    batches = [{"input_ids": torch.where(IDS == 7, 8, IDS)}, {"input_ids": torch.full_like(IDS, 7)}]
    with pytest.raises(InputError, match=expected):
        fxprune.compile(model, {"params": "80%"}, example_inputs=batches[0], data=batches, scorer="obs")


def test_a_loss_on_its_own() -> None:
    def ratio(output: Tensor, batch: Tensor) -> Tensor:
        return output.mean() / (0.0 if batch is data[1] else 1.0)

    data = BATCHES
    with pytest.raises(
        InputError, match=r"not finite \(-?inf\) for batch 2 of data\. All that the model computes"
    ) as caught:
        fxprune.compile(convolutions(), "60%", data=data, scorer="gradnas", loss=ratio)
    assert "batch 2 of data is finite" in str(caught.value)
