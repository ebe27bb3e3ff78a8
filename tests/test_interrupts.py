"""Functions of the user's that raise, Ctrl-C and SIGTERM in the middle of them: who raised it, and that nothing is lost."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import CheckpointError, Plan

BATCHES = [torch.linspace(-1, step, 96).reshape(4, 8, 3).permute(0, 2, 1) for step in range(1, 7)]


class Net(nn.Module):
    """Statistics, dropout, something frozen, a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm1d(32)
        self.second = nn.Conv1d(32, 24, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        out: Tensor = self.head(self.drop(x.mean(2)))
        return out


def net() -> Net:
    """In training mode but for one layer, with gradients of the user's own."""
    torch.manual_seed(0)
    model = Net()
    model.second.eval()
    model.first.weight.requires_grad_(False)
    model.head.register_forward_hook(lambda *_: None)
    model(BATCHES[0]).sum().backward()
    return model


def state(model: nn.Module) -> list[Any]:
    """All that an interrupted run must leave as it was."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [
        [(name, id(each), each.tolist(), each.requires_grad, _numbers(each.grad)) for name, each in tensors],
        [(path, each.training, _hooks(each), sorted(each.__dict__)) for path, each in model.named_modules()],
        [each.momentum for each in model.modules() if isinstance(each, nn.BatchNorm1d)],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


def _numbers(gradient: Tensor | None) -> list[Any]:
    return [] if gradient is None else [id(gradient), gradient.tolist()]


def _hooks(module: nn.Module) -> list[int]:
    return [len(each) for each in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)]


class Failing:
    """A function that does something else at its n-th call: the same function to fxprune, whatever it does."""

    def __init__(self, function: Callable[..., Any], at: int | None, act: Callable[[], object]) -> None:
        self.function, self.at, self.act, self.calls = function, at, act, 0

    def __fxprune_fingerprint__(self) -> str:
        return self.function.__qualname__

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            self.act()
        return self.function(*args)


class Data:
    """Batches, each of which goes through a function that may fail."""

    def __init__(self, function: Failing) -> None:
        self.function = function

    def __fxprune_fingerprint__(self) -> str:
        return "data"

    def __iter__(self) -> Iterator[Tensor]:
        yield from (self.function(batch) for batch in BATCHES)


def score(model: nn.Module) -> float:
    with torch.no_grad():
        return -float(model(BATCHES[0]).square().mean())


def loss(output: Tensor, _: object) -> Tensor:
    return output.square().mean()


def same(each: Any) -> Any:
    return each


def nothing() -> None:
    pass


def fail() -> None:
    raise ValueError("the moon is not in the right phase")


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    """As a scheduler does that stops a job, to a process that ends in order."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)


ERRORS = {ValueError: fail, KeyboardInterrupt: interrupt, SystemExit: terminate}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "fastnas score": ("score", 4, {"scorer": "fastnas", "score": score, "data": BATCHES}),
    "fastnas data": ("data", 5, {"scorer": "fastnas", "score": score, "data": same}),
    "gradnas loss": ("loss", 4, {"scorer": "gradnas", "loss": loss, "data": BATCHES}),
    "gradnas data": ("data", 5, {"scorer": "gradnas", "loss": loss, "data": same}),
    "gradnas collect": ("collect", 6, {"scorer": "gradnas", "loss": loss, "collect": same, "data": BATCHES}),
    "taylor loss": ("loss", 4, {"scorer": "taylor", "loss": loss, "data": BATCHES}),
    "obs data": ("data", 6, {"scorer": "obs", "data": same}),
    "repair data": ("data", 4, {"scorer": "magnitude", "data": same}),
    "grid score": ("score", 3, {"scorer": "magnitude", "score": score, "search": fxprune.Grid(near=0.5)}),
}


def run(model: Net, case: str, at: int | None, act: Callable[[], object], checkpoint: Path | None) -> Plan:
    name, _, options = CASES[case]
    own = Failing(options[name], at, act)
    given = {**options, name: Data(own) if name == "data" else own, "checkpoint": checkpoint}
    return fxprune.compile(model, "60%", example_inputs=BATCHES[0], progress=False, **given).plan


def noted(error: BaseException, argument: str) -> bool:
    return any(note.startswith("raised by") and f"passed as {argument}=" in note for note in error.__notes__)


@functools.cache
def undisturbed(case: str) -> Plan:
    return run(net(), case, None, nothing, None)


def quick_first() -> Iterator[Any]:
    """Every case with every error; one of each case is quick enough for every day."""
    for place, case in enumerate(CASES):
        for number, error in enumerate(ERRORS):
            yield pytest.param(case, error, marks=() if number == place % len(ERRORS) else pytest.mark.slow)


@pytest.mark.parametrize(("case", "error"), list(quick_first()))
def test_what_a_function_raises_goes_up_and_nothing_is_lost(
    case: str, error: type[BaseException], tmp_path: Path
) -> None:
    model, (argument, at, _) = net(), CASES[case]
    before = state(model)
    with pytest.raises(error) as caught:
        run(model, case, at, ERRORS[error], tmp_path / "search.ckpt")
    assert noted(caught.value, argument)
    assert state(model) == before
    plan = run(model, case, None, nothing, tmp_path / "search.ckpt")
    assert plan == undisturbed(case)
    assert state(model) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_scoring_for_a_sweep(error: type[BaseException]) -> None:
    """There the score is of the user's own model too."""
    model = net()
    before = state(model)
    own = Failing(score, 1, ERRORS[error])
    with pytest.raises(error) as caught:
        fxprune.sweep(model, ["80%"], score=own, scorer="magnitude", example_inputs=BATCHES[0])
    assert noted(caught.value, "score")
    assert state(model) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_fine_tuning_between_stages(error: type[BaseException], tmp_path: Path) -> None:
    model = net()
    before = state(model)

    def prune(at: int | None) -> Plan:
        finetune = Failing(lambda slim: None, at, ERRORS[error])
        options: dict[str, Any] = {"example_inputs": BATCHES[0], "checkpoint": tmp_path / "search.ckpt"}
        return fxprune.iterate(model, "50%", steps=2, finetune=finetune, **options).plan

    with pytest.raises(error) as caught:
        prune(2)
    assert noted(caught.value, "finetune")
    assert state(model) == before
    assert prune(None).widths["first"][0] < 32


def test_an_end_of_iteration_is_no_end_of_the_data() -> None:
    """StopIteration out of a function would end a generator: some batches would be left out without a word."""

    def collect(_: object) -> Any:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        fxprune.compile(net(), "60%", example_inputs=BATCHES[0], data=BATCHES, scorer="obs", collect=collect)
    assert noted(caught.value, "collect")


def test_an_interrupt_while_a_record_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a line is taken back: the next one may follow, in this process too."""
    write, count = os.write, [0]

    def half(descriptor: int, content: memoryview) -> int:
        count[0] += 1
        if count[0] == 3:
            write(descriptor, content[: len(content) // 2])
            raise KeyboardInterrupt
        return write(descriptor, content)

    monkeypatch.setattr("fxprune.store.os.write", half)
    with pytest.raises(KeyboardInterrupt):
        run(net(), "gradnas loss", None, nothing, tmp_path / "search.ckpt")
    monkeypatch.undo()
    assert run(net(), "gradnas loss", None, nothing, tmp_path / "search.ckpt").scorer == "gradnas"


def test_a_checkpoint_is_free_again_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    with pytest.raises(ValueError, match="the moon") as caught:
        run(net(), "gradnas loss", 3, fail, path)
    try:
        run(net(), "gradnas loss", None, nothing, path)
    except CheckpointError as error:  # the traceback still holds the frames of the run that failed
        pytest.fail(f"{error}, while {caught.value!r} is held")
