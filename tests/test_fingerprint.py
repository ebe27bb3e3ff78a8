"""What counts in a checkpoint's fingerprint: settings and code do, working state and addresses do not."""

from __future__ import annotations

import datetime
import logging
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.batches import reiterable
from fxprune.errors import CheckpointError
from fxprune.fingerprint import digest
from fxprune.passes.fastnas import FastNAS

FACTOR = 1.0
OFFSETS = [1.0, 2.0]
CALLED: list[int] = []
IMAGES = TensorDataset(torch.linspace(-1, 1, 96).reshape(12, 8), torch.arange(12) % 4)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))


def shuffled() -> DataLoader[Any]:
    return DataLoader(IMAGES, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))


def closure(scale: float) -> Callable[[Tensor, Any], Tensor]:
    return lambda output, batch: F.cross_entropy(output * scale, batch[1])


def default(value: float) -> Callable[[Tensor, Any], Tensor]:
    def loss(output: Tensor, batch: Any, scale: float = value) -> Tensor:
        return F.cross_entropy(output * scale, batch[1])

    return loss


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output * self.scale, batch[1])


def edited(scale: float) -> Callable[[Tensor, Any], Tensor]:
    """An object of a class whose `__call__` was edited."""
    text = f"class Loss:\n    def __call__(self, output, batch):\n        return cross(output * {scale}, batch[1])"
    space: dict[str, Any] = {"cross": F.cross_entropy, "__name__": "losses"}
    exec(text, space)
    made: Callable[[Tensor, Any], Tensor] = space["Loss"]()
    return made


def compiled(path: Path, **options: Any) -> fxprune.SlimModule:
    given: dict[str, Any] = {"data": [(IMAGES.tensors[0], IMAGES.tensors[1])], "checkpoint": path, "progress": False}
    return fxprune.compile(perceptron(), "50%", **{**given, **options})


@pytest.mark.parametrize("make", [closure, default, Scaled, edited])
def test_another_loss_is_refused(tmp_path: Path, make: Callable[[float], Any]) -> None:
    compiled(tmp_path / "ckpt", loss=make(1.0))
    compiled(tmp_path / "ckpt", loss=make(1.0))
    with pytest.raises(CheckpointError, match="another run: loss differs"):
        compiled(tmp_path / "ckpt", loss=make(30.0))


def test_other_widths_to_try_are_refused(tmp_path: Path) -> None:
    def run(**options: Any) -> None:
        compiled(tmp_path / "ckpt", score=lambda model: float(model(IMAGES.tensors[0]).sum()), **options)

    run(align=8, floor=0.5)
    with pytest.raises(CheckpointError, match="another run: align differs"):
        run(align=1, floor=0.5)
    with pytest.raises(CheckpointError, match="another run: floor differs"):
        run(align=8, floor=0.05)


def test_other_operations_on_the_same_weights_are_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"example_inputs": torch.ones(2, 8), "checkpoint": tmp_path / "ckpt", "progress": False}
    model = perceptron()
    fxprune.compile(model, "50%", **options)
    with pytest.raises(CheckpointError, match="another run: model differs"):
        fxprune.compile(nn.Sequential(model[0], nn.Tanh(), model[2]), "50%", **options)  # type: ignore[index]


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale


PAIRS: list[tuple[Any, Any]] = [
    (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.5)),
    (Slotted(1.0), Slotted(2.0)),
    (Path("a"), Path("b")),
    (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)),
    (slice(1), slice(2)),
    ({1, 2}, {1, 3}),
    ([1.0, 2], [1, 2]),
    ([(1, "a")], [(1, "b")]),
    (torch.relu, torch.sigmoid),
    (torch.ops.aten.relu.default, torch.ops.aten.tanh.default),
    (nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2))),
]


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda value: type(value).__name__)
def test_values_differ_by_what_they_hold(left: Any, right: Any) -> None:
    assert digest(left) == digest(left)
    assert digest(left) != digest(right)


def helper(value: float) -> float:
    return value * FACTOR


def by_globals(model: nn.Module) -> float:
    CALLED.append(1)
    return helper(1.0) + OFFSETS[0] + len(CALLED)


@pytest.mark.parametrize("name", ["FACTOR", "OFFSETS", "helper"])
def test_globals_that_a_function_uses_count(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = digest(by_globals)
    other: Any = {"FACTOR": 2.0, "OFFSETS": [3.0, 2.0], "helper": lambda value: value}[name]
    monkeypatch.setitem(globals(), name, other)
    assert digest(by_globals) != before


def test_what_a_function_changes_itself_does_not_count() -> None:
    seen: dict[str, int] = {}
    count = 0

    def score(model: nn.Module) -> float:
        nonlocal count
        count += 1
        seen["calls"] = count
        return by_globals(model)

    before = digest(score)
    score(nn.ReLU())
    assert (count, seen) == (1, {"calls": 1})
    assert digest(score) == before


class Counting:
    """A score that counts its calls, has settings, and holds what has no value that could be compared."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.calls = 0
        self.history: list[float] = []
        self.log = logging.getLogger("fxprune.tests")
        self.lock = threading.Lock()
        self.file = Path(os.devnull).open()  # noqa: SIM115
        self.system = os

    def __call__(self, model: nn.Module) -> float:
        self._note()
        return self.factor * float(model(IMAGES.tensors[0]).sum())

    def _note(self) -> None:
        self.calls += 1
        self.history.append(1.0)

    def change(self, factor: float) -> None:
        self.factor = factor

    def evaluate(self, model: nn.Module) -> float:
        return self(model)


@pytest.mark.parametrize("of", [lambda counting: counting, lambda counting: counting.evaluate])
def test_a_score_that_counts_its_calls_is_the_same_score(tmp_path: Path, of: Callable[[Counting], Any]) -> None:
    score = Counting(1.0)
    compiled(tmp_path / "ckpt", score=of(score), scorer=FastNAS())
    assert score.calls
    score.log.manager.loggerDict.pop("fxprune.other", None)
    logging.getLogger("fxprune.other")
    compiled(tmp_path / "ckpt", score=of(score), scorer=FastNAS())
    score.change(2.0)
    score.file.close()
    with pytest.raises(CheckpointError, match="another run: score differs"):
        compiled(tmp_path / "ckpt", score=of(score), scorer=FastNAS())


class Told:
    def __init__(self, setting: int, state: int) -> None:
        self.setting, self.state = setting, state

    def __fxprune_fingerprint__(self) -> object:
        return self.setting


def test_an_object_may_say_what_counts() -> None:
    assert digest(Told(1, 2)) == digest(Told(1, 3)) != digest(Told(2, 3))


class Lazy(Sequence[Any]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at: Any) -> Any:
        raise AssertionError("loaded")


def test_long_and_lazy_sequences_cost_little() -> None:
    started = time.perf_counter()
    numbers = list(range(3_000_000))
    pairs = [("path", number) for number in range(300_000)]
    assert digest(range(3_000_000)) != digest(range(3_000_001))
    assert digest(numbers) != digest([*numbers[:-1], 0])
    assert digest(pairs) != digest([*pairs[:-1], ("path", 0)])
    assert digest(Lazy(2000)) != digest(Lazy(2001))
    assert time.perf_counter() - started < 5


def test_values_that_hold_themselves_or_are_shared() -> None:
    ring: list[Any] = [1, object()]
    ring.append(ring)
    assert digest(ring) == digest(ring)
    part = [object()]
    for _ in range(30):
        part = [part, part]  # 2^30 paths
    assert digest(part) == digest(part)
    shared = [{1}]
    assert digest([[{1}], [{1}]]) == digest([shared, shared])


SCRIPT = """
import logging, sys, torch
import numpy as np
from functools import partial
from torch import nn
from fxprune.fingerprint import digest

WEIGHTS = {"a", "b", "c", "d"}

class Score:
    names = frozenset(["x", "y", "z", len])

    def __init__(self):
        self.log = logging.getLogger()
        self.functions = frozenset([len, helper, torch.relu, "text"])
        self.stream = sys.__stderr__
        self.loss = nn.CrossEntropyLoss()
        self.itself = self


    @torch.no_grad()
    def __call__(self, model):
        return 1.0 if model in {"p", "q", "r"} else helper(2.0)

def helper(x):
    return x if x in WEIGHTS else nn.functional.relu(x)

print(digest([Score(), Score().__call__, partial(helper, x=object()), np.random.default_rng(0), {1: {"u", "v", "w"}}]))
"""


def test_digests_are_the_same_in_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    other = subprocess.run([sys.executable, path], env=environment, check=True, capture_output=True, text=True)
    runpy.run_path(str(path), run_name="__main__")
    found = capsys.readouterr().out
    assert len(found) == 33
    assert found == other.stdout


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # from importing torch.compile
def test_what_is_compiled_counts_as_what_it_was() -> None:
    assert digest(torch.compile(helper)) == digest(torch.compile(helper)) != digest(torch.compile(by_globals))
    one, same, two = (torch.compile(Scaled(scale)) for scale in (1.0, 1.0, 2.0))
    assert digest(one) == digest(same) != digest(two)


def test_a_shuffling_loader_with_a_seed_is_the_same_data(tmp_path: Path) -> None:
    loader = shuffled()
    before = torch.get_rng_state()
    first = compiled(tmp_path / "ckpt", data=loader, loss=closure(1.0), example_inputs=torch.ones(1, 8))
    second = compiled(tmp_path / "ckpt", data=loader, loss=closure(1.0), example_inputs=torch.ones(1, 8))
    assert first.plan == second.plan
    torch.manual_seed(0)
    other = DataLoader(IMAGES, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(6))
    with pytest.raises(CheckpointError, match="another run: data differs"):
        compiled(tmp_path / "ckpt", data=other, loss=closure(1.0), example_inputs=torch.ones(1, 8))
    torch.set_rng_state(before)


@pytest.mark.parametrize("seeded", [True, False])
def test_passes_over_a_shuffling_loader_are_alike_and_leave_no_trace(seeded: bool) -> None:
    loader = shuffled() if seeded else DataLoader(IMAGES, batch_size=4, shuffle=True)
    data = reiterable(loader)
    assert data is not None
    before = torch.get_rng_state()
    first, second = ([batch[0].tolist() for batch in data] for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    interleaved = [torch.rand(1) is not None and batch[0].tolist() for batch in data]
    assert interleaved == first
    if seeded:
        assert [batch[0].tolist() for batch in loader] == first


def test_a_one_shot_iterator_is_drawn_from_on_demand(tmp_path: Path) -> None:
    drawn = 0

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield torch.randn(2, 8), torch.tensor([0, 1])

    compiled(tmp_path / "a", data=batches(), scorer="magnitude", reconstruct=False)
    assert drawn == 1
    data = reiterable(batches())
    assert data is not None
    drawn = 0
    short = [batch[0].tolist() for batch, _ in zip(data, range(3), strict=False)]
    assert drawn <= 4
    assert [batch[0].tolist() for batch, _ in zip(data, range(3), strict=False)] == short
    assert len(list(data)) == len(list(data)) == drawn == 1024
