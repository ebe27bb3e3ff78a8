"""What scorers share: batches, work that is remembered, sums over batches, and the checkpoint of `compile`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.errors import CheckpointError, InputError
from fxprune.fingerprint import digest
from fxprune.store import Store
from tests.plugin.src.fxprune_firstindex import FirstIndex

DATA = [torch.linspace(-1, step, 40).reshape(5, 8) for step in range(1, 8)]


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))


def context(**options: Any) -> fxprune.Context:
    model = perceptron()
    return fxprune.Context(model, fxprune.analyze(model, DATA[0]), DATA, **options)


@dataclass(frozen=True)
class Activity:
    """The mean square of each hidden feature over the data, and one evaluation of each group; counts its work."""

    scale: float = 1.0
    stop_after: int | None = field(default=None, compare=False)
    done: list[str] = field(default_factory=list, compare=False)
    name: str = "activity"
    needs: frozenset[str] = field(default=frozenset({"data"}))

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        layer = context.model.get_submodule("0")

        def work(name: str) -> None:
            if len(self.done) == self.stop_after:
                raise KeyboardInterrupt
            self.done.append(name)

        def squares(batch: Any) -> dict[str, Tensor]:
            work("batch")
            return {"hidden": layer(batch.args[0]).detach().square().sum(0)}

        sums, count = context.accumulate("activity", squares, "measuring")
        assert count == len(DATA)

        def evaluate(name: str) -> dict[str, float]:
            work(name)
            return {"loss": self.scale * len(name) / 3}

        found = context.evaluate(["one", "three"], evaluate, "evaluating")
        assert found["three"] == {"loss": self.scale * 5 / 3}
        return fxprune.Scores(self.name, {"0": sums["hidden"] * self.scale})


def test_batches_are_arranged_and_limited() -> None:
    ctx = context()
    assert [batch.args[0].tolist() for batch in ctx.batches()] == [each.tolist() for each in DATA]
    assert len(list(ctx.batches(3))) == 3
    assert len(list(ctx.batches(3, skip=2, share=True))) == 1
    with pytest.raises(InputError, match="pass data="):
        fxprune.Context(ctx.model, ctx.analysis).batches()


def test_sums_over_batches_are_exact_and_in_order() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3)) * 10.0 ** np.arange(-9, 12).reshape(7, 3)
    at = iter(range(7))
    sums, count = context().accumulate("a", lambda _: {"x": values[next(at)]}, "summing")
    expected = np.zeros(3)
    for row in values:
        expected = expected + row
    assert count == 7
    assert sums["x"].tobytes() == expected.tobytes()


def test_evaluations_are_done_once() -> None:
    ctx, calls = context(), []

    def compute(key: str) -> dict[str, Any]:
        calls.append(key)
        return {"key": key}

    assert ctx.evaluate(["a", "b", "a"], compute, "evaluating") == {"a": {"key": "a"}, "b": {"key": "b"}}
    assert ctx.evaluate(["b", "c"], compute, "evaluating") == {"b": {"key": "b"}, "c": {"key": "c"}}
    assert calls == ["a", "b", "c"]


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7, 8])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, stop_after: int) -> None:
    model, path = perceptron(), tmp_path / "search.ckpt"
    expected = fxprune.compile(model, "50%", data=DATA, scorer=Activity())
    first = Activity(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        fxprune.compile(model, "50%", data=DATA, scorer=first, checkpoint=path)
    second = Activity()
    slim = fxprune.compile(model, "50%", data=DATA, scorer=second, checkpoint=path)
    assert [*first.done, *second.done] == ["batch"] * 7 + ["one", "three"]
    assert slim.plan == expected.plan
    assert slim.scores is not None
    assert expected.scores is not None
    assert slim.scores.importance["0"].tobytes() == expected.scores.importance["0"].tobytes()
    third = Activity()
    assert fxprune.compile(model, "30%", data=DATA, scorer=third, checkpoint=path).plan.widths["0"][0] < 32
    assert third.done == []


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    options: dict[str, Any] = {"data": DATA, "checkpoint": path, "progress": False}
    fxprune.compile(perceptron(), "50%", scorer=Activity(), **options)
    other = perceptron()
    with torch.no_grad():
        other.get_parameter("0.bias")[0] += 1e-6
    wider = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 4))
    for expected, model, changed in (
        ("weights", other, {}),
        ("groups .*, model, weights", wider, {}),
        ("scorer", perceptron(), {"scorer": Activity(scale=2.0)}),
        ("scorer", perceptron(), {"scorer": FirstIndex()}),
        ("data", perceptron(), {"data": DATA[:-1]}),
        ("data", perceptron(), {"data": [DATA[1], *DATA[1:]]}),
        ("seed", perceptron(), {"seed": 1}),
        ("score", perceptron(), {"score": lambda model: 0.0}),
        ("groups", perceptron(), {"ignore": ["0"]}),
    ):
        with pytest.raises(CheckpointError, match=rf"another run: {expected}.* differs?"):
            fxprune.compile(model, "90%", **{"scorer": Activity(), **options, **changed})


def test_functions_count_by_their_code() -> None:
    def first(model: nn.Module) -> float:
        return sum(x for x in (1.0, 2.0))

    def second(model: nn.Module) -> float:
        return sum(x for x in (1.0, 3.0))

    second.__qualname__ = first.__qualname__
    assert digest(first) != digest(second)
    assert digest(first) == digest(first)


def test_a_one_shot_iterator_serves_for_inputs_fingerprint_and_scoring(tmp_path: Path) -> None:
    scorer = Activity()
    slim = fxprune.compile(perceptron(), "50%", data=iter(DATA), scorer=scorer, checkpoint=tmp_path / "search.ckpt")
    assert scorer.done.count("batch") == 7
    assert slim.plan == fxprune.compile(perceptron(), "50%", data=DATA, scorer=Activity()).plan


def test_example_inputs_come_from_the_data() -> None:
    loader = DataLoader(TensorDataset(torch.randn(6, 3, 10, 10), torch.zeros(6)), batch_size=2)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    slim = fxprune.compile(model, "50%", data=loader)
    assert slim.example_inputs[0][0].shape == (1, 3, 10, 10)
    assert "inferred from one sample of the first batch of data: 1x3x10x10" in str(slim.report).replace("\n", " ")
    assert slim(torch.randn(5, 3, 10, 10)).shape == (5, 2)


def test_example_inputs_from_named_data_are_what_forward_takes() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 32)
            self.hidden = nn.Linear(32, 64)
            self.out = nn.Linear(64, 3)

        def forward(self, ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
            hidden = self.hidden(self.embed(ids)).relu()
            out: Tensor = self.out(hidden if mask is None else hidden * mask[..., None])
            return out

    batch = {"mask": torch.ones(4, 6), "ids": torch.zeros(4, 6).long(), "labels": torch.zeros(4), "text": ["a"] * 4}
    slim = fxprune.compile(Tagger(), "70%", data=[batch])
    args, kwargs = slim.example_inputs
    assert not args
    assert {name: tuple(each.shape) for name, each in kwargs.items()} == {"mask": (1, 6), "ids": (1, 6)}


def test_data_that_is_no_data_says_so() -> None:
    with pytest.raises(InputError, match="data holds no batch"):
        fxprune.compile(perceptron(), "50%", data=[])
    with pytest.raises(InputError, match="pass an iterable of batches"):
        fxprune.compile(perceptron(), "50%", data=DATA[0])


def test_a_context_has_a_store_of_its_own() -> None:
    first, second = context(), context()
    first.store.put("a", {"x": 1})
    assert second.store.get("a") is None
    assert isinstance(first.store, Store)


def test_tracking_passes_items_on() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)

    assert list(context().track(items(), "doing")) == [1, 2]
    assert list(context(progress=False).track(items(), "doing")) == [1, 2]
