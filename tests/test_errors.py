"""What users see when something is wrong: the right class of error, and one screen that says what to do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import (
    BudgetError,
    CaptureError,
    CheckpointError,
    FxpruneError,
    InfeasibleBudget,
    InputError,
    PluginError,
    Scores,
)

X = torch.linspace(-1, 1, 16).reshape(2, 8)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    )


class Leaves(nn.Module):
    """Leaves PyTorch on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out + torch.from_numpy(out.detach().numpy().round())


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the moon is\nnot in the right phase")


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass
class Scorer:
    """A scorer that gives what a function gives."""

    give: Callable[[fxprune.Context], Any]
    name: str = "mine"
    needs: frozenset[str] = field(default=frozenset())

    def score(self, context: fxprune.Context) -> Any:
        return self.give(context)


class Nameless:
    name = "half of a scorer"


def fails(**options: Any) -> str:
    """The message of the error that compiling a perceptron with these options raises."""
    options = {"model": perceptron(), "budget": "50%", "example_inputs": X, **options}
    with pytest.raises(options.pop("error", FxpruneError)) as caught:
        fxprune.compile(options.pop("model"), options.pop("budget"), **options)
    return readable(caught.value)


def readable(error: BaseException) -> str:
    """The message, which has to fit one screen in a terminal of 120 columns."""
    message = str(error)
    lines = [line for each in message.splitlines() for line in textwrap.wrap(each, 120) or [""]]
    assert 1 <= len(lines) <= 25, message
    assert len(message) > 20, message
    assert "0x" not in message, f"an address tells nobody anything: {message}"
    return message


def test_no_example_inputs_and_none_to_infer() -> None:
    for model in (perceptron(), nn.Conv2d(1, 8, 3)):
        message = fails(model=model, example_inputs=None, error=InputError)
        assert type(model).__name__ in message
        assert "example_inputs=(torch.randn(" in message


@pytest.mark.parametrize("inputs", [5, "x", 2.5, object()])
def test_example_inputs_that_are_none(inputs: object) -> None:
    message = fails(example_inputs=inputs, error=InputError)
    assert type(inputs).__name__ in message
    assert "example_inputs=(torch.randn(" in message


@pytest.mark.parametrize("inputs", [(), (3,), {"x": None}, []])
def test_example_inputs_without_a_tensor(inputs: object) -> None:
    assert "holds no tensor; pass" in fails(example_inputs=inputs, error=InputError)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (0, "is not above zero"),
        (-1, "is not above zero"),
        ("-5%", "is not above zero"),
        ("abc", "is not an amount"),
        ("200%", "is more than the original model has"),
        (float("nan"), "is not a finite amount"),
        (True, "is not an amount"),
        (None, "neither a value nor a mapping"),
        ({}, "an empty mapping"),
    ],
)
def test_budgets_that_are_none(budget: Any, reason: str) -> None:
    message = fails(budget=budget, error=BudgetError)
    assert reason in message
    assert '"50%"' in message


def test_unknown_budget_keys() -> None:
    assert "Did you mean 'flops'?" in fails(budget={"flop": "50%"}, error=BudgetError)
    assert "flops, params, memory" in fails(budget={"speed": "50%"}, error=BudgetError)
    assert "has no unit" in fails(budget={"latency": 3}, error=BudgetError)


def test_an_infeasible_budget_names_the_smallest_reachable_value_and_what_holds_it() -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        fxprune.compile(perceptron(), "1%", example_inputs=X)
    message = readable(caught.value)
    shortfall = caught.value.shortfalls["flops"]
    assert shortfall.original == 2 * 2 * (8 * 64 + 64 * 4)
    assert shortfall.smallest == 2 * 2 * (8 * 8 + 8 * 4)
    assert "384 FLOPs" in message
    assert "2.weight:0" in message
    assert "model output" in message
    assert "floor=" in message
    assert "align=" in message
    slim = fxprune.compile(perceptron(), shortfall.smallest, example_inputs=X)
    assert slim.report.metrics[0].after == shortfall.smallest


def test_an_infeasible_budget_of_several_limits_names_each_that_fails() -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        fxprune.compile(convolutions(), {"params": "1%", "flops": "0.1%", "memory": "99%"}, example_inputs=IMAGES)
    assert set(caught.value.shortfalls) == {"params", "flops"}
    assert "params" in readable(caught.value)


def test_nothing_to_cut_at_all() -> None:
    message = fails(model=nn.Linear(8, 4), error=InfeasibleBudget)
    assert "model input" in message
    assert "model output" in message


def test_code_that_cannot_be_traced() -> None:
    message = fails(model=Leaves(), error=CaptureError)
    assert "Leaves could not be captured" in message
    assert "test_errors.py" in message
    assert "torch.where" in message


def test_a_failed_capture_prints_nothing_of_its_own() -> None:
    """The message is all, in a process of its own: neither dumps of graphs nor torch's log lines."""
    program = (
        "import torch, fxprune\n"
        "from tests.test_errors import Leaves, perceptron\n"
        "for model, x in ((Leaves(), torch.ones(2, 8)), (perceptron(), torch.ones(2, 7))):\n"
        "    try:\n"
        "        fxprune.compile(model, '50%', example_inputs=x)\n"
        "    except fxprune.CaptureError:\n"
        "        print('caught')\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root)
    assert (done.stdout.split(), done.stderr) == (["caught", "caught"], "")


def test_an_exception_of_the_models_own() -> None:
    message = fails(model=Fails(), error=CaptureError)
    assert "ValueError: the moon is" in message
    assert "test_errors.py" in message


def test_example_inputs_of_the_wrong_shape() -> None:
    message = fails(example_inputs=torch.ones(2, 7), error=CaptureError)
    assert "[8, 64]" in message
    message = fails(model=convolutions(), example_inputs=torch.ones(2, 1, 16, 16), error=CaptureError)
    assert "to have 3 channels, but got 1 channels" in message


def test_example_inputs_of_the_wrong_shape_are_named_as_the_culprit() -> None:
    message = fails(example_inputs=torch.ones(2, 7), error=CaptureError)
    assert "example_inputs" in message or "example inputs" in message
    assert "7" in message


def test_example_inputs_of_the_wrong_type_of_numbers() -> None:
    message = fails(example_inputs=X.double(), error=CaptureError)
    assert "same dtype" in message


def test_arguments_that_forward_does_not_take() -> None:
    for inputs in ((X, X), {"nothing": X}):
        message = fails(example_inputs=inputs, error=CaptureError)
        assert "argument" in message
        assert "inspect.py" not in message, "the standard library is not where the user's mistake is"


@pytest.mark.parametrize("model", [lambda x: x, {}, perceptron().state_dict(), None, "resnet18"])
def test_no_module(model: object) -> None:
    message = fails(model=model, error=CaptureError)
    assert "torch.nn.Module" in message
    assert type(model).__name__ in message


def test_a_class_instead_of_an_instance() -> None:
    assert "pass an instance, Leaves(...)" in fails(model=Leaves, error=CaptureError)


def test_a_model_that_cannot_be_copied() -> None:
    message = fails(model=Locked(), error=CaptureError)
    assert "Locked cannot be copied" in message
    assert "__deepcopy__" in message


@pytest.mark.parametrize("name", ["plan", "report", "scores", "example_inputs", "graph", "code", "meta"])
def test_a_module_whose_name_is_taken(name: str) -> None:
    """GraphModule and SlimModule have attributes of these names; the user has to rename the layer, and is told so."""

    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(8, 64))
            self.last = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.get_submodule(name)(x))
            return out

    message = fails(model=Clashing(), error=CaptureError)
    assert repr(name) in message
    assert "rename" in message


def test_weights_that_are_not_finite() -> None:
    model = perceptron()
    with torch.no_grad():
        model.get_parameter("0.weight")[3] = float("nan")
    assert "0.weight" in fails(model=model, error=InputError)


def test_a_scripted_or_lazy_model() -> None:
    assert "LazyLinear could not be captured" in fails(model=nn.LazyLinear(4), error=CaptureError)


def test_ignore_that_matches_nothing() -> None:
    model = nn.Sequential()
    model.add_module("features", nn.Linear(8, 32))
    model.add_module("classifier", nn.Linear(32, 4))
    message = fails(model=model, ignore=["clasifier"], error=InputError)
    assert "ignore='clasifier'" in message
    assert "did you mean 'classifier'" in message
    assert "for example" in fails(ignore=["?*zzz"], error=InputError)


def test_ignore_of_another_type() -> None:
    message = fails(ignore=[3], error=InputError)
    assert "ignore" in message
    assert "3" in message


def test_unknown_scorer() -> None:
    message = fails(scorer="magnitud", error=InputError)
    assert "did you mean 'magnitude'" in message


@pytest.mark.parametrize(
    ("needs", "given", "wanted"),
    [
        ({"data"}, {}, "needs data="),
        ({"data", "loss"}, {}, "needs data= and loss="),
        ({"data", "loss"}, {"data": [X]}, "needs loss="),
        ({"score"}, {"data": [X]}, "needs score="),
    ],
)
def test_a_scorer_without_what_it_needs(needs: set[str], given: dict[str, Any], wanted: str) -> None:
    never = Scorer(lambda _: pytest.fail("must not run"), needs=frozenset(needs))
    message = fails(scorer=never, **given, error=InputError)
    assert wanted in message
    assert "pass it to the call that scores (fxprune.compile, score or sweep)" in message


@pytest.mark.parametrize("scorer", [Nameless(), 7, [], torch.nn.Linear(1, 1)])
def test_an_object_that_is_no_scorer(scorer: object) -> None:
    message = fails(scorer=scorer, error=InputError)
    assert type(scorer).__name__ in message
    assert "`score(context)`" in message


def test_the_class_of_a_scorer_instead_of_a_scorer() -> None:
    class Class(Scorer):
        name = "a class"
        needs = frozenset()

    message = fails(scorer=Class, error=InputError)
    assert "instance" in message
    assert "Class" in message


@pytest.mark.parametrize("importance", [{}, {"0": np.ones(63)}, {"0": np.ones((2, 64))}, {"1": np.ones(64)}], ids=str)
def test_a_scorer_that_gives_other_shapes(importance: dict[str, Any]) -> None:
    message = fails(scorer=Scorer(lambda _: Scores("mine", importance)), error=PluginError)
    assert "mine" in message
    assert "'0'" in message
    assert "(64,)" in message


@pytest.mark.parametrize(
    "give",
    [
        lambda _: None,
        lambda _: {"0": np.ones(64)},
        lambda _: Scores("mine", {"0": -np.ones(64)}),
        lambda _: Scores("mine", {"0": np.full(64, np.nan)}),
        lambda _: Scores("mine", {"0": [1.0] * 64}),  # type: ignore[dict-item]
    ],
    ids=["None", "dict", "negative", "nan", "list"],
)
def test_a_scorer_that_gives_something_else(give: Callable[[fxprune.Context], Any]) -> None:
    message = fails(scorer=Scorer(give), error=PluginError)
    assert "mine" in message


def test_scores_of_another_model() -> None:
    other = fxprune.compile(convolutions(), "50%", example_inputs=IMAGES).scores
    message = fails(scores=other, error=(InputError, PluginError))
    assert "0.weight: this model has float32 [64, 8]" in message


def test_scores_of_another_model_say_what_to_do() -> None:
    other = fxprune.compile(convolutions(), "50%", example_inputs=IMAGES).scores
    message = fails(scores=other, error=InputError)
    assert "another model" in message


@pytest.mark.parametrize("scores", [{"0": np.ones(64)}, 3])
def test_scores_that_are_none(scores: object) -> None:
    assert "scores" in fails(scores=scores, error=InputError)


def test_scores_from_a_file_that_is_not_there() -> None:
    message = fails(scores="magnitude", error=CheckpointError)
    assert "magnitude does not hold scores: there is no such file" in message


def test_scores_and_scorer_together() -> None:
    scores = fxprune.compile(perceptron(), "50%", example_inputs=X).scores
    message = fails(scores=scores, scorer="magnitude", error=InputError)
    assert "leave scorer= out" in message


def test_unknown_search_method() -> None:
    message = fails(search="knapsak", error=InputError)
    assert "Did you mean 'knapsack'?" in message
    assert "threshold, uniform" in message


@pytest.mark.parametrize("align", [0, -8, 2.5, "8", True])
def test_alignments_that_are_none(align: object) -> None:
    message = fails(align=align, error=InputError)
    assert f"align={align!r}" in message
    assert "align=8" in message


@pytest.mark.parametrize("floor", [0, -1, 1.5, -0.1, "5%", True, float("nan")])
def test_floors_that_are_none(floor: object) -> None:
    for given in (floor, {"0": floor}):
        message = fails(floor=given, error=InputError)
        assert repr(floor) in message
        assert "between 0.0 and 1.0" in message


def test_a_floor_that_matches_no_group() -> None:
    message = fails(floor={"features*": 0.5}, error=InputError)
    assert "features*" in message
    assert "for example" in message


def test_an_unknown_group() -> None:
    with pytest.raises(InputError, match=r"no group is named 'zero'") as caught:
        fxprune.analyze(perceptron(), X).group("zero")
    readable(caught.value)


def test_a_plan_that_is_none() -> None:
    for text in ("nope", "[1]", "{}", "", "null"):
        with pytest.raises(CheckpointError, match=r"no fxprune plan") as caught:
            fxprune.Plan.from_json(text)
        readable(caught.value)


def test_one_tree() -> None:
    errors = [each for name in fxprune.__all__ if isinstance(each := getattr(fxprune, name), type)]
    errors = [each for each in errors if issubclass(each, Exception)]
    assert len(errors) > 10
    assert all(issubclass(each, FxpruneError) for each in errors)
