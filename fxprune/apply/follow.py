"""The last resort: rewrite the calls whose sizes the user's Python derives in a way that no attribute can say.

The copy, its attributes patched, is run once more while every size that is not what the graph has at that place is
corrected as it passes, and every real number (a scale) that is not the original's. If that run computes what the graph
form computes, then the corrections are what the class lacks: each is written into the text of the function that makes
the call (`spell`, `locate`), and the module gets a class with that text (`followed`).

Numbers that depend on the batch or the sequence stay as the user wrote them; one of them that the cut made wrong is left
to be inferred (`-1`). Where one line needs different numbers in one module, or cannot be told, nothing is rewritten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from fxprune.apply.arguments import ArgumentPath, numbers_of, with_numbers
from fxprune.apply.draft import Draft, Value
from fxprune.apply.locate import Way, instructions_from, way_from
from fxprune.apply.matching import Matching
from fxprune.apply.observe import Call, Instruction, Listener, Observation, listen
from fxprune.apply.source import CannotFollow, NeedsSeveral
from fxprune.apply.spell import SCALE, Spot
from fxprune.capture import structural_copy
from fxprune.inputs import Inputs

Key = tuple[str, CodeType, int]
Demanded = tuple[Key, tuple[Instruction, ...], ArgumentPath]
_MOST_SHARED = 8
"""Functions of which each call gets a copy of its own."""
_INFERRING = ("reshape", "view")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a number of a call has to be.

    Attributes:
        value: in the graph, for the example inputs; a tuple for the parts of a split.
        dynamic: it depends on the batch or the sequence.
    """

    value: Value
    dynamic: bool = False

    def differs(self, found: Any) -> bool:
        """Whether a call got something else; sizes to be inferred never do."""
        if isinstance(self.value, int) and isinstance(found, int):
            return self.value > 0 and found >= 0 and self.value != found
        return bool(self.value != found)


def _own_scale(call: Call) -> float:
    """The scale that an attention kernel takes when it is given none."""
    assert call.query_width is not None
    return float(call.query_width**-0.5)


def wanted(call: Call, matching: Matching) -> dict[ArgumentPath, Wanted]:
    """What the numbers of a call of the original have to be in the slim model, where that is known."""
    found = {path: Wanted(value) for path, value in call.arguments.items() if isinstance(value, float)}
    if call.query_width is not None and SCALE not in call.arguments:
        found[SCALE] = Wanted(_own_scale(call))
    matched = matching.operations.get(call.number)
    if matched is None:
        return found
    paths = [path for path, value in call.arguments.items() if isinstance(value, int)]
    for at, (path, value) in enumerate(zip(paths, matching.expected(call), strict=True)):
        if value is not None:
            found[path] = Wanted(value, at in matched.dynamic)
        elif matched.parts is not None:
            found[path] = Wanted(matched.parts)
    return found


class Corrector(Listener):
    """Corrects the numbers of calls, and writes down in drafts what the user's text would have to be."""

    def __init__(
        self, found: Observation, original: Observation, matching: Matching, shared: Container[CodeType]
    ) -> None:
        """Correct a run of the copy, of which `original` is the run with the original sizes.

        `shared` functions get a copy for each call of them.
        """
        super().__init__(found)
        self.shared = shared
        self.matching = matching
        self.originals: dict[Key, list[Call]] = defaultdict(list)
        for call in original.calls:
            if call.instruction is not None:
                self.originals[call.place.path, *call.instruction].append(call)
        self.counts: Counter[Key] = Counter()
        self.demanded: dict[Demanded, set[Value]] = defaultdict(set)
        self.corrected: dict[Demanded, CodeType] = {}
        self.drafts: dict[int, Draft] = {}
        self.reasons: list[str] = []

    def adjust(self, call: Call, frame: FrameType | None, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """The call with the numbers of the graph."""
        if call.instruction is None or frame is None:
            return func, args, kwargs
        key = (call.place.path, *call.instruction)
        wants = self._wants(key, call)
        around = instructions_from(frame) if frame.f_code in self.shared else ()
        changes: dict[ArgumentPath, Value] = {}
        for path, want in wants.items():
            self.demanded[key, around, path].add(-1 if want.dynamic else want.value)
            if want.differs(call.arguments[path] if path in call.arguments else _own_scale(call)):
                changes[path] = want.value
        if not changes:
            return func, args, kwargs
        self.corrected.update({(key, around, path): frame.f_code for path in changes})
        texts = {path: -1 if wants[path].dynamic else value for path, value in changes.items()}
        try:
            self._write(Spot.at(way := way_from(frame, self.shared), call.name, (args, kwargs)), way, texts)
        except CannotFollow as reason:
            self.reasons.append(str(reason))
        return _changed(func, args, kwargs, changes)

    def _wants(self, key: Key, call: Call) -> dict[ArgumentPath, Wanted]:
        """What the call of the original at the same place and time wants."""
        known, count = self.originals[key], self.counts[key]
        self.counts[key] += 1
        if count >= len(known) or known[count].name != call.name or set(known[count].arguments) != set(call.arguments):
            return {}
        return wanted(known[count], self.matching)

    def _write(self, spot: Spot, way: Way, changes: Mapping[ArgumentPath, Value]) -> None:
        draft = self.drafts.setdefault(id(way.module), Draft(way.module))
        for path, value in changes.items():
            if value == -1 and not _can_infer(spot):
                raise CannotFollow(f"a size that depends on the batch changes in {spot.line}")
            draft.write(spot, way, path, value)

    def check(self) -> None:
        """Whether what was corrected can be written.

        Raises:
            CannotFollow: it cannot, and why.
        """
        for each, code in self.corrected.items():
            values = sorted(map(str, self.demanded[each]))
            if len(values) > 1:
                path = each[0][0]
                msg = f"{path}: one line of {code.co_qualname} needs {' as well as '.join(values)}"
                raise NeedsSeveral(msg, code)
        if self.reasons:
            raise CannotFollow(self.reasons[0])


def _can_infer(spot: Spot) -> bool:
    numbers = [value for _, value in numbers_of(spot.arguments)]
    return spot.name in _INFERRING and all(value >= 0 for value in numbers)


def _changed(func: Any, args: Any, kwargs: Any, changes: Mapping[ArgumentPath, Value]) -> tuple[Any, Any, Any]:
    parts = next((value for value in changes.values() if isinstance(value, tuple)), None)
    if parts is not None:
        return torch.split, (args[0], parts, kwargs.get("dim", args[2] if len(args) > 2 else 0)), {}
    positional, keywords = with_numbers((tuple(args), kwargs), changes)
    return func, positional, {**keywords, **({"scale": changes[SCALE]} if SCALE in changes else {})}


def follow(
    copy: nn.Module, inputs: Inputs, original: Observation, matching: Matching
) -> tuple[Observation, Mapping[str, Draft]]:
    """Run a patched copy with corrections.

    Args:
        copy: patched; it is not changed.
        inputs: example inputs.
        original: what a run of the original showed.
        matching: what the graph knows of its calls.

    Returns:
        What the run showed, and what to write for each module, by its path.

    Raises:
        CannotFollow: a correction cannot be written.
    """
    shared: tuple[CodeType, ...] = ()
    while True:
        try:
            return _follow(copy, inputs, original, matching, shared)
        except NeedsSeveral as reason:
            if reason.code in shared or len(shared) == _MOST_SHARED:
                raise
            shared = (*shared, reason.code)


def _follow(
    copy: nn.Module, inputs: Inputs, original: Observation, matching: Matching, shared: Container[CodeType]
) -> tuple[Observation, Mapping[str, Draft]]:
    shell = structural_copy(copy).eval()
    corrector = Corrector(Observation(), original, matching, shared)
    listen(shell, inputs, corrector)
    corrector.check()
    paths = {id(module): path for path, module in shell.named_modules()}
    return corrector.found, {paths[key]: draft for key, draft in corrector.drafts.items()}
