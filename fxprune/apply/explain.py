"""Why the user's own class cannot follow a cut, in words: module, attribute, line."""

from __future__ import annotations

from torch import nn

from fxprune.apply.demands import Deviation
from fxprune.apply.places import Place
from fxprune.apply.search import Patches, Search
from fxprune.apply.slots import Slot, read
from fxprune.apply.trial import Trial
from fxprune.errors import CannotApply

_ADVICE = (
    "The slim module itself (`slim`) computes the cut exactly; to keep your own class, pass what this module cuts in "
    "`ignore=`, or have its forward take the number from an attribute or from a shape."
)

_LONGEST = 12
"""Lines about scales; the layers of a model mostly say the same."""


def cannot_apply(search: Search, patches: Patches, trial: Trial, reason: str | None = None) -> CannotApply:
    """The error to raise after a search that ended without agreement."""
    seen = trial.observation
    deviation = search.deviation(trial)
    lines = [f"{type(search.model).__name__} cannot follow the cut in its own Python"]
    if deviation is not None:
        lines += _passes(search.model, deviation)
    elif seen.error is not None:
        lines += _uneven(search, seen.place.path)
    if seen.error is not None:
        if deviation is None or seen.place != deviation.place:
            lines += _where(search.model, seen.place)
        lines.append(f"  error: {type(seen.error).__name__}: {next(iter(str(seen.error).strip().splitlines()), '')}")
    elif deviation is None:
        lines.append(f"  what: it runs, but computes something else (error {trial.error:.1e} times the tolerance)")
        lines += _scales(search, patches)
    if deviation is not None or seen.error is not None:
        lines.append(_attributes(search, trial, seen.place.path if deviation is None else deviation.place.path))
    if reason is not None:
        lines.append(f"  not rewritten: {reason}")
    return CannotApply("\n".join([*lines, _ADVICE]))


def _passes(model: nn.Module, deviation: Deviation) -> list[str]:
    numbers = f"passes {deviation.found} where the slim model has {deviation.expected}"
    return [*_where(model, deviation.place), f"  what: {numbers} (the original: {deviation.original})"]


def _uneven(search: Search, path: str) -> list[str]:
    """Splits into parts of equal size, in the module or around it, whose parts are not equal any more."""
    return [
        line
        for place, operations in search.matching.sizes.operations.items()
        if path.startswith(place.path) and any(new is None for each in operations for _, new in each.numbers)
        for line in (*_where(search.model, place), "  what: splits into equal parts what the cut left unequal")
    ][:3]


def _where(model: nn.Module, place: Place) -> list[str]:
    kind = type(model.get_submodule(place.path)).__name__
    return [f"  module: {place.path or '(the model itself)'} ({kind})", f"  source: {place}"]


def _attributes(search: Search, trial: Trial, path: str) -> str:
    """Attributes of the module that its forward reads."""
    found = [slot for slot in search.read_by(path, trial.observation) if slot.holder == path]
    return f"  attributes: {', '.join(map(str, found[:8])) or 'none is read there: the number is written in the code'}"


def _scales(search: Search, patches: Patches) -> list[str]:
    """Scales that are computed from what was cut, each with its line."""
    lines: list[str] = []
    for place, slots in search.seen.recorder.floats.items():
        cut = [str(slot) for slot in slots if _changes(search, patches, slot)]
        if cut:
            lines += [*_where(search.model, place), f"  scale: a real number is computed from {', '.join(cut)}"]
    for place in search.rescaled:
        lines += [*_where(search.model, place), "  scale: the attention kernel takes it from the head's width"]
    return lines[:_LONGEST]


def _changes(search: Search, patches: Patches, slot: Slot) -> bool:
    return slot in patches and read(search.base, slot) != patches[slot]
