"""Why the user's own class cannot follow a cut, in words: module, attribute, line."""

from __future__ import annotations

from torch import nn

from fxprune.apply.places import Place
from fxprune.apply.search import Patches, Search
from fxprune.apply.slots import Slot
from fxprune.apply.trial import Trial
from fxprune.errors import CannotApply

_ADVICE = (
    "The slim module itself (`slim`) computes the cut exactly; to keep your own class, pass what this module cuts in "
    "`ignore=`, or have its forward take the number from an attribute or from a shape."
)


def cannot_apply(search: Search, patches: Patches, trial: Trial) -> CannotApply:
    """The error to raise after a search that ended without agreement."""
    deviation = search.deviation(trial)
    lines = [f"{type(search.model).__name__} cannot follow the cut in its own Python"]
    if deviation is not None:
        lines += _where(search.model, deviation.place)
        lines.append(
            f"  what: passes {deviation.found} where the slim model has {deviation.expected} "
            f"(the original: {deviation.original})"
        )
    error = trial.observation.error
    if error is not None:
        if deviation is None or trial.observation.place != deviation.place:
            lines += _where(search.model, trial.observation.place)
        text = str(error).strip().splitlines()
        lines.append(f"  error: {type(error).__name__}: {text[0] if text else ''}")
        lines += [] if deviation is not None else _uneven(search, trial.observation.place.path)
    elif deviation is None:
        lines.append(f"  what: it runs, but computes something else (error {trial.error:.1e} times the tolerance)")
    path = deviation.place.path if deviation is not None else trial.observation.place.path
    lines += _attributes(search, patches, trial, path if deviation is not None or error is not None else None)
    lines.append(_ADVICE)
    return CannotApply("\n".join(lines))


def _uneven(search: Search, path: str) -> list[str]:
    """Splits into parts of equal size, in the module or around it, whose parts are not equal any more."""
    return [
        line
        for place, operations in search.sizes.operations.items()
        if path.startswith(place.path) and any(new is None for each in operations for _, new in each.numbers)
        for line in (*_where(search.model, place), "  what: splits into equal parts what the cut left unequal")
    ][:3]


def _where(model: nn.Module, place: Place) -> list[str]:
    kind = type(model.get_submodule(place.path)).__name__
    return [f"  module: {place.path or '(the model itself)'} ({kind})", f"  source: {place}"]


def _attributes(search: Search, patches: Patches, trial: Trial, path: str | None) -> list[str]:
    """Attributes that were tried in the module, and scales that are computed from what was cut."""
    if path is None:
        lines = []
        for where, slots in search.seen.recorder.floats.items():
            cut = [str(slot) for slot in slots if _changes(search, patches, slot)]
            lines += [f"  scale: {where or 'the model'} computes a real number from {', '.join(cut)}"] if cut else []
        lines += [
            f"  scale: the attention kernel in {each} takes it from the head's width" for each in search.rescaled[:4]
        ]
        return lines[:8]
    found = [slot for slot in search.read_by(path, trial.observation) if slot.holder == path]
    return [
        f"  attributes: {', '.join(map(str, found[:8])) or 'none is read there: the number is written in the code'}"
    ]


def _changes(search: Search, patches: Patches, slot: Slot) -> bool:
    from fxprune.apply.slots import read

    return slot in patches and read(search.base, slot) != patches[slot]
