"""Scorers: objects, built-in ones, and those of installed packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.passes.magnitude import Magnitude
from tests.plugin.src.fxprune_firstindex import FirstIndex

HERE = Path(__file__).parent
GUIDE = HERE.parent / "docs" / "scorers.md"
X = torch.linspace(-1, 1, 16).reshape(2, 8)


def perceptron() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))


@dataclass
class Watching:
    """Remembers the context that it was given."""

    seen: list[fxprune.Context] = field(default_factory=list)
    name: str = "watching"
    needs: frozenset[str] = field(default=frozenset())

    def score(self, context: fxprune.Context) -> fxprune.Scores:
        self.seen.append(context)
        return fxprune.Scores(self.name, FirstIndex().score(context).importance)


def test_a_scorer_decides_which_indices_stay() -> None:
    model = perceptron()
    slim = fxprune.compile(model, "50%", example_inputs=X, scorer=FirstIndex())
    assert slim.plan.kept == {"0": list(range(32))}
    assert torch.equal(slim.get_parameter("0.weight"), model[0].weight[:32])
    assert torch.equal(slim.get_parameter("2.weight"), model[2].weight[:, :32])
    assert slim.plan.scorer == slim.report.scorer == "first-index"


def test_a_scorer_is_given_what_the_user_gave() -> None:
    data, scorer = [X], Watching(needs=frozenset({"data", "loss"}))

    def loss(output: Tensor, batch: Tensor) -> Tensor:
        return output.sum()

    model = perceptron()
    options: dict[str, Any] = {"data": data, "loss": loss, "collect": tuple, "seed": 7, "reconstruct": False}
    fxprune.compile(model, "50%", example_inputs=X, scorer=scorer, **options)
    (context,) = scorer.seen
    assert context.model is model
    assert context.data is data
    assert (context.loss, context.score, context.collect, context.seed) == (loss, None, tuple, 7)
    assert [group.name for group in context.groups] == ["0"]
    assert {name: tuple(tensor.shape) for name, (tensor, _) in context.parameters_of(context.groups[0]).items()} == {
        "0.weight": (64, 8),
        "0.bias": (64,),
        "2.weight": (4, 64),
    }


def test_magnitude_is_the_energy_of_all_coupled_slices() -> None:
    model = perceptron()
    slim = fxprune.compile(model, "50%", example_inputs=X, scorer="magnitude")
    energy = model[0].weight.square().sum(1) + model[0].bias.square() + model[2].weight.square().sum(0)
    expected = (energy / energy.mean()).detach().double().numpy()
    assert slim.scores is not None
    np.testing.assert_allclose(slim.scores.importance["0"], expected, rtol=1e-5)
    assert slim.plan.kept["0"] == sorted(np.argsort(-expected)[:32].tolist())


def test_magnitude_of_a_model_of_zeros() -> None:
    model = perceptron()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    slim = fxprune.compile(model, "50%", example_inputs=X)
    assert slim.plan.kept == {"0": list(range(32))}


def test_magnitude_does_not_depend_on_a_groups_scale() -> None:
    """Multiplying a layer by a number changes the order in no group."""
    model, scaled = perceptron(), perceptron()
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(1e3)
    one, other = (fxprune.compile(each, "50%", example_inputs=X) for each in (model, scaled))
    assert one.plan.kept == other.plan.kept


def test_magnitude_of_a_nested_group_is_by_outer_index() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=4), nn.ReLU(), nn.Conv2d(32, 5, 1)
    )
    analysis = fxprune.analyze(model, torch.randn(2, 3, 8, 8))
    scores = Magnitude().score(fxprune.Context(model, analysis))
    nested = [group for group in analysis.groups if group.outer is not None]
    assert nested
    for group in nested:
        assert group.outer is not None
        assert scores.importance[group.name].shape == (group.outer.size, group.size)


def test_auto_is_magnitude() -> None:
    one = fxprune.compile(perceptron(), "50%", example_inputs=X)
    other = fxprune.compile(perceptron(), "50%", example_inputs=X, scorer="magnitude")
    assert one.plan == other.plan


def test_a_sensitivity_decides_how_much_goes() -> None:
    """Importances alike, but one group is said to be a hundred times as sensitive."""

    @dataclass
    class Sensitive:
        name: str = "sensitive"
        needs: frozenset[str] = field(default=frozenset())

        def score(self, context: fxprune.Context) -> fxprune.Scores:
            importance = {group.name: np.ones(group.size) for group in context.groups}
            losses = {"0": 100.0, "2": 1.0}
            curves = {name: fxprune.Curve((8, 64), (loss, 0.0)) for name, loss in losses.items()}
            return fxprune.Scores(self.name, importance, curves)

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    slim = fxprune.compile(model, "60%", example_inputs=torch.randn(2, 64), scorer=Sensitive())
    assert slim.plan.widths["0"][0] > slim.plan.widths["2"][0]


def guide_blocks(monkeypatch: pytest.MonkeyPatch) -> list[types.ModuleType]:
    """The code blocks of docs/scorers.md, each run in a module of its own."""
    text = GUIDE.read_text(encoding="utf-8")
    made = []
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        guide = types.ModuleType("guide")
        monkeypatch.setitem(sys.modules, "guide", guide)
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1].replace("print(", "shown = str("), str(GUIDE), "exec"), vars(guide))
        made.append(guide)
    return made


def test_the_guide_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in docs/scorers.md: built-in scorers, and one that works."""
    built_in, own = guide_blocks(monkeypatch)
    assert built_in.by_gradients.plan.scorer == "gradnas"
    assert built_in.by_score.plan.scorer == "fastnas"
    slim, model = own.slim, own.model
    assert isinstance(slim, fxprune.SlimModule)
    assert slim.plan.scorer == "sharpness"
    assert slim.scores is not None
    powers = model[0].weight ** 4
    expected = powers.sum(1) + model[0].bias ** 4 + (model[2].weight ** 4).sum(0)
    np.testing.assert_allclose(slim.scores.importance["0"], expected.detach().numpy(), rtol=1e-5)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(HERE / "plugin", tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="session")
def clashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(HERE / "plugin" / "clash", tmp_path_factory.mktemp("clash"))


def install(package: Path, folder: Path) -> Path:
    """Install a package into a folder of its own, from a copy, since building leaves files behind."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "clash")
    source = shutil.copytree(package, folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def compiles_with(scorer: str, *sites: Path) -> str:
    """What a new process prints that compiles with a scorer, with packages of these folders installed."""
    program = (
        "import torch, fxprune\n"
        "from torch import nn\n"
        "model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))\n"
        "try:\n"
        f"    slim = fxprune.compile(model, '50%', example_inputs=torch.randn(2, 8), scorer={scorer!r})\n"
        "except fxprune.FxpruneError as error:\n"
        "    print(f'{type(error).__name__}: {error}')\n"
        "else:\n"
        "    print(slim.plan.scorer, slim.plan.kept['0'] == list(range(32)))\n"
    )
    path = os.pathsep.join([*map(str, sites), str(HERE.parent)])
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_scorer_of_an_installed_package_is_found_by_name(installed: Path) -> None:
    assert compiles_with("first-index", installed) == "first-index True"


def test_a_scorer_of_a_package_that_is_not_installed() -> None:
    message = compiles_with("first-index")
    assert message.startswith("InputError: there is no scorer named 'first-index'")
    assert "'magnitude'" in message


def test_a_misspelt_scorer_of_a_package(installed: Path) -> None:
    assert "did you mean 'first-index'?" in compiles_with("firstindex", installed)


def test_a_scorer_that_cannot_be_loaded_says_whose_it_is(installed: Path) -> None:
    message = compiles_with("broken", installed)
    assert message.startswith("PluginError")
    assert "fxprune_firstindex:Broken" in message
    assert "this scorer needs a licence" in message


def test_an_entry_point_to_something_else(installed: Path) -> None:
    message = compiles_with("not-a-scorer", installed)
    assert message.startswith("PluginError")
    assert "fxprune_firstindex:NotAScorer" in message
    assert "lacks `name`, `needs` or `score`" in message


def test_two_packages_with_one_name_are_both_named(installed: Path, clashing: Path) -> None:
    message = compiles_with("first-index", installed, clashing)
    assert message.startswith("PluginError")
    assert "fxprune_firstindex" in message
    assert "fxprune_clash" in message


def test_a_clash_of_others_does_not_concern_who_asks_for_neither(installed: Path, clashing: Path) -> None:
    for scorer in ("auto", "magnitude"):
        assert compiles_with(scorer, installed, clashing).startswith("magnitude")
