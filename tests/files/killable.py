"""Work that is killed by `tests.files.kills`, and what has to be so afterwards:

scoring     `compile(..., checkpoint=)` with three scorers     the plan is that of a run without a kill
search      the same with `search=Grid(...)`                   likewise
save        two models in turn, to one path                    after every kill one of the two, to the last bit
plan, scores    likewise, `Plan.save` and `Scores.save`        likewise
apply       `apply_to_checkpoint`, sharded                     the folder is not there, or has the same bytes
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
import tests.conftest  # noqa: F401 - so that Transformers can be imported
from fxprune import Plan, Scores, SlimModule
from fxprune.passes.gradnas import GradNAS
from fxprune.passes.obs import Obs
from tests.files.nets import compiled

PLAN = "plan.json"
"""What a compilation leaves when it has come to its end."""


@dataclass(frozen=True)
class Work:
    """Something to be killed at.

    Attributes:
        name: what it is.
        prepare: lay out what it begins with, in a new folder.
        act: do it; the folder is all that it leaves.
        check: raise unless the folder is as it may be after a kill.
        finished: what identifies the result, once it has come to its end; None for work that goes on for ever.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    check: Callable[[Path], None]
    finished: Callable[[Path], object] | None


def nothing(_: Path) -> None:
    """No preparation; or nothing to be checked but that the next run goes on."""


DATA = [torch.linspace(-1, step, 40).reshape(5, 8) for step in range(1, 25)]


def perceptron() -> nn.Module:
    """Three layers, always the same."""
    torch.manual_seed(0)
    layers = (nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4))
    return nn.Sequential(*layers)


def loss(output: Tensor, _: object) -> Tensor:
    """Something to differentiate."""
    return output.square().mean()


def score(model: nn.Module) -> float:
    """Agreement with the whole model."""
    return -float((model(DATA[0]) - perceptron()(DATA[0])).square().mean())


def compiling(folder: Path, **options: Any) -> None:
    """A compilation with a checkpoint."""
    options |= {"example_inputs": DATA[0], "checkpoint": folder / "search.ckpt", "verify": False}
    slim = fxprune.compile(perceptron(), "60%", progress=False, **options)
    slim.plan.save(folder / PLAN)


def compilation(name: str, **options: Any) -> Work:
    """Work that ends with a plan."""
    return Work(name, nothing, lambda folder: compiling(folder, **options), nothing, lambda f: Plan.load(f / PLAN))


def saving(name: str, first: Any, second: Any, save: Callable[[Any, Path], None], load: Callable[[Path], Any]) -> Work:
    """Work that replaces one file again and again, by two contents in turn."""

    def prepare(folder: Path) -> None:
        save(first, folder / "file")

    def act(folder: Path) -> None:
        for each in itertools.cycle((second, first)):
            save(each, folder / "file")

    known: set[bytes] = set()

    def check(folder: Path) -> None:
        if not known:
            with tempfile.TemporaryDirectory() as place:
                for each in (first, second):
                    save(each, Path(place) / "file")
                    known.add((Path(place) / "file").read_bytes())
        load(folder / "file")
        assert (folder / "file").read_bytes() in known, f"{folder / 'file'} is neither of the two that were saved"

    return Work(name, prepare, act, check, None)


def changed(slim: SlimModule) -> SlimModule:
    """The same module with other weights."""
    with torch.no_grad():
        for parameter in slim.parameters():
            parameter.add_(1)
    return slim


def other(scores: Scores | None) -> Scores:
    """Other scores of the same groups."""
    assert scores is not None
    return Scores(scores.scorer, {name: each + 1 for name, each in scores.importance.items()})


def cutting() -> Work:
    """`apply_to_checkpoint` of a checkpoint of several files."""
    from tests.shards.helpers import UNIFORM, cut, llama
    from tests.shards.helpers import save as save_checkpoint

    plan, place = cut(UNIFORM).plan, Path(tempfile.mkdtemp())
    source = save_checkpoint(llama(), place / "source", "20KB")

    def act(folder: Path) -> None:
        if os.listdir(folder) != ["cut"]:  # killed after the very last step, it has nothing left to do
            fxprune.apply_to_checkpoint(plan, source, folder / "cut", progress=False)

    whole = place / "whole"
    fxprune.apply_to_checkpoint(plan, source, whole, progress=False)

    def check(folder: Path) -> None:
        assert not (folder / "cut").exists() or digests(folder / "cut") == digests(whole)

    def finished(folder: Path) -> object:
        assert os.listdir(folder) == ["cut"], os.listdir(folder)
        return digests(folder / "cut")

    return Work("apply", nothing, act, check, finished)


def digests(folder: Path) -> dict[str, str]:
    """Of all files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def works(*names: str) -> Iterator[Work]:
    """All kinds of work, or those of these names."""
    slim, plan, scores = compiled("sequential")[0], compiled("sequential")[0].plan, compiled("sequential")[0].scores
    smaller = compiled("convolutions")[0].plan
    made: dict[str, Callable[[], Work]] = {
        "scoring fastnas": lambda: compilation("scoring fastnas", scorer="fastnas", score=score, data=DATA),
        "scoring gradnas": lambda: compilation("scoring gradnas", scorer=GradNAS(), data=DATA, loss=loss),
        "scoring obs": lambda: compilation("scoring obs", scorer=Obs(), data=DATA),
        "search": lambda: compilation("search", scorer="magnitude", score=score, search=fxprune.Grid(top=30, near=0.5)),
        "save": lambda: saving("save", slim, changed(compiled("sequential")[0]), fxprune.save, fxprune.load),
        "plan": lambda: saving("plan", plan, smaller, Plan.save, Plan.load),
        "scores": lambda: saving("scores", scores, other(scores), Scores.save, Scores.load),
        "apply": cutting,
    }
    yield from (made[name]() for name in names or made)
