"""Run a model whose numbers are tagged, and note every operation that a size argument of the user's reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fxprune.apply.places import Place, current_place, place_of_error
from fxprune.apply.slots import always, find_slots, replace
from fxprune.apply.tagged import Recorder, Tagged
from fxprune.capture import structural_copy, without_cache
from fxprune.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a torch function with whole numbers among its arguments.

    Attributes:
        place: the user's line.
        numbers: the whole numbers in order, tagged where they come from a slot.
        occurrence: how many calls with the same numbers the same place made before.
    """

    place: Place
    numbers: tuple[int, ...]
    occurrence: int


@dataclass(slots=True)
class Observation:
    """What one run showed.

    Attributes:
        calls: in order.
        recorder: what the numbers were used for besides.
        outputs: flat outputs, or None where it failed.
        error: what it failed with.
        place: where.
        finished: number of module calls that returned before.
    """

    calls: list[Call] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    outputs: list[Any] | None = None
    error: Exception | None = None
    place: Place = field(default_factory=lambda: Place(""))
    finished: int = 0


def observe(model: nn.Module, inputs: Inputs) -> Observation:
    """Run a copy of the model, its numbers tagged, in eval mode; the copy shares its tensors.

    What the run raises is noted, not raised.
    """
    found = Observation()
    shell = structural_copy(model).eval()
    without_cache(shell)
    _tag(shell, found.recorder)
    stack = _follow_modules(shell, found)
    args, kwargs = inputs
    try:
        with torch.no_grad(), torch.random.fork_rng(), _Listener(found):
            torch.manual_seed(0)
            found.outputs = tree_leaves(shell(*args, **kwargs))
    except Exception as error:
        found.error = error
        found.place = place_of_error(stack[-1] if stack else "", error.__traceback__)
    return found


def _tag(shell: nn.Module, recorder: Recorder) -> None:
    for slot, value in find_slots(shell).items():
        own = shell.get_submodule(slot.holder).__dict__
        tagged = Tagged.of(value, slot, recorder)
        own[slot.steps[0]] = replace(own[slot.steps[0]], slot.steps[1:], always(tagged))


def _follow_modules(shell: nn.Module, found: Observation) -> list[str]:
    """Keep the path of the running module in the recorder; returns the stack of paths."""
    stack: list[str] = []

    def enter(path: str) -> None:
        stack.append(path)
        found.recorder.path = path

    def leave() -> None:
        stack.pop()
        found.recorder.path = stack[-1] if stack else ""
        found.finished += 1

    for path, module in shell.named_modules():
        module.register_forward_pre_hook(lambda _module, _args, path=path: enter(path))
        module.register_forward_hook(lambda _module, _args, _result: leave())
    return stack


class _Listener(TorchFunctionMode):
    """Notes calls of torch functions."""

    def __init__(self, found: Observation) -> None:
        super().__init__()
        self.found = found
        self.seen: Counter[tuple[Place, tuple[int, ...]]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        numbers = tuple(_numbers((args, kwargs)))
        if numbers:
            place = current_place(self.found.recorder.path)
            key = (place, tuple(int(each) for each in numbers))
            self.found.calls.append(Call(place, numbers, self.seen[key]))
            self.seen[key] += 1
        return func(*args, **kwargs)


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        if not isinstance(value, bool):
            yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, slice):
        yield from _numbers((value.start, value.stop, value.step))
