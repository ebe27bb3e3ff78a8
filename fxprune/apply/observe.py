"""Run a model whose numbers are tagged, and note every operation that a size argument of the user's reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fxprune.apply.arguments import ArgumentPath, Number, numbers_of
from fxprune.apply.places import Place, current_frame, lines_of_frame, place_of_error
from fxprune.apply.slots import always, find_slots, replace
from fxprune.apply.tagged import Recorder, Tagged
from fxprune.capture import structural_copy, without_cache
from fxprune.inputs import Inputs
from fxprune.random_state import kept_random_state

Instruction: TypeAlias = tuple[CodeType, int]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a torch function with whole numbers among its arguments.

    Attributes:
        place: the user's line.
        numbers: the whole numbers in order, tagged where they come from a slot.
        lines: the place, then the lines around it out to the module's forward.
        number: how many calls came before.
        name: of the torch function.
        instruction: the code that calls it, and where in that code.
        arguments: whole and real numbers by their path.
        query_width: of an attention kernel, the width that it takes a scale from.
    """

    place: Place
    numbers: tuple[int, ...]
    lines: tuple[Place, ...]
    number: int
    name: str = ""
    instruction: Instruction | None = None
    arguments: Mapping[ArgumentPath, Number] = field(default_factory=dict)
    query_width: int | None = None


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
    listen(shell, inputs, Listener(found))
    return found


def listen(shell: nn.Module, inputs: Inputs, listener: Listener) -> None:
    """Run a copy that is there to be run, its numbers tagged, with a listener."""
    found = listener.found
    without_cache(shell)
    _tag(shell, found.recorder)
    stack = _follow_modules(shell, found)
    args, kwargs = inputs
    try:
        with torch.no_grad(), kept_random_state(), listener:
            found.outputs = tree_leaves(shell(*args, **kwargs))
    except Exception as error:
        found.error = error
        found.place = place_of_error(stack[-1] if stack else "", error.__traceback__)


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


class Listener(TorchFunctionMode):
    """Notes calls of torch functions."""

    def __init__(self, found: Observation) -> None:
        """Note them in `found`."""
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Note the call, then do what it asks for."""
        kwargs = kwargs or {}
        arguments = dict(numbers_of((args, kwargs)))
        if arguments or func is scaled_dot_product_attention:
            frame = current_frame()
            query = args[0] if args else kwargs.get("query")
            width = int(query.shape[-1]) if func is scaled_dot_product_attention else None
            call = self._note(func, frame, arguments, width)
            func, args, kwargs = self.adjust(call, frame, func, args, kwargs)
        return func(*args, **kwargs)

    def adjust(self, _call: Call, _frame: FrameType | None, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """What to call instead; here, the same."""
        return func, args, kwargs

    def _note(
        self, func: Any, frame: FrameType | None, arguments: dict[ArgumentPath, Number], width: int | None
    ) -> Call:
        numbers = tuple(each for each in arguments.values() if isinstance(each, int))
        lines = lines_of_frame(self.found.recorder.path, frame)
        call = Call(
            lines[0],
            numbers,
            lines,
            len(self.found.calls),
            str(getattr(func, "__name__", func)),
            None if frame is None else (frame.f_code, frame.f_lasti),
            arguments,
            width,
        )
        self.found.calls.append(call)
        return call
