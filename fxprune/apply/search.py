"""Search for the patches that make the copy agree with the graph, from what the trials show.

The demands of the graph come first and mostly suffice. Where the copy still fails, the first module that goes wrong is
looked at: a comparison that used to hold and does not any more names the number it wants; other numbers of that
module, those first that its forward read, are tried at the sizes that the graph knows in that module, one at a time,
then two; a switch that chooses another attention kernel is tried where the kernel's own scale went wrong. What
brings the run further is kept. What helped one module is the first thing tried in the next one of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any

from torch import nn

from fxprune.apply.demands import Demand, Deviation, find_deviations
from fxprune.apply.layers import follow_tensors
from fxprune.apply.matching import Matching
from fxprune.apply.observe import Observation
from fxprune.apply.places import Place
from fxprune.apply.slots import Slot, find_slots, write
from fxprune.apply.solve import alternatives
from fxprune.apply.tagged import Tagged, slots_of
from fxprune.apply.trial import Trial, try_out
from fxprune.capture import structural_copy
from fxprune.inputs import Inputs

Patches = Mapping[Slot, int]

_LIMIT = 200
"""Trials in total."""
_LIMIT_AT_ONE_PLACE = 40
"""Trials without getting any further."""


@dataclass(slots=True)
class Search:
    """One search under way.

    Attributes:
        model: the original.
        base: its copy with slim tensors, not patched.
        inputs: example inputs.
        expected: what the graph form makes of them.
        seen: what a run of the original showed.
        matching: the calls of that run with what the graph knows.
        demands: what it asks for.
        rescaled: lines whose attention kernel derives its scale from a width that was cut.
        learned: (class, steps, old value, new value) of proposals that helped.
        trials: number of trials so far.
    """

    model: nn.Module
    base: nn.Module
    inputs: Inputs
    expected: Sequence[Any]
    seen: Observation
    matching: Matching
    demands: Sequence[Demand]
    rescaled: Sequence[Place]
    learned: list[tuple[type, tuple[Any, ...], int, int]] = field(default_factory=list)
    trials: int = 0

    def patched(self, patches: Patches) -> nn.Module:
        """A copy of the base, sharing its tensors, with these patches."""
        made = structural_copy(self.base)
        install(self.model, made, patches)
        return made

    def attempt(self, patches: Patches) -> Trial:
        """Try patches out."""
        self.trials += 1
        return try_out(self.patched(patches), self.inputs, self.expected)

    def run(self, patches: Patches) -> tuple[Patches, Trial]:
        """The patches that came furthest, and their trial."""
        trial = self.attempt(patches)
        while not trial.agrees and self.trials < _LIMIT:
            step = self._step(patches, trial)
            if step is None:
                break
            patches, trial = step
        return patches, trial

    def _step(self, patches: Patches, trial: Trial) -> tuple[Patches, Trial] | None:
        for proposal in islice(self.proposals(patches, trial), _LIMIT_AT_ONE_PLACE):
            changed = {**patches, **proposal}
            result = self.attempt(changed)
            if result.progress > trial.progress:
                self._learn(proposal, patches)
                return changed, result
        return None

    def _learn(self, proposal: Patches, patches: Patches) -> None:
        originals = find_slots(self.base)
        for slot, new in proposal.items():
            kind = type(self.base.get_submodule(slot.holder))
            self.learned.append((kind, slot.steps, patches.get(slot, originals.get(slot, 0)), new))

    def deviation(self, trial: Trial) -> Deviation | None:
        """The first call that did not get the number that the graph has."""
        return next(find_deviations(self.seen.calls, trial.observation.calls, self.matching), None)

    def proposals(self, patches: Patches, trial: Trial) -> Iterator[Patches]:
        """What to try next, the most plausible first."""
        yield from self.comparisons(trial.observation)
        if trial.observation.outputs is not None:
            yield from self._switches()
        for path in self._suspects(trial):
            options = list(self._options(path, patches, trial))
            yield from ({slot: value} for slot, value in options)
            for first, second in combinations(options, 2):
                if first[0] != second[0]:
                    yield dict([first, second])

    def _suspects(self, trial: Trial) -> list[str]:
        """Modules that went wrong."""
        deviation = self.deviation(trial)
        failed = [trial.observation.place.path] if trial.observation.error is not None else []
        return list(dict.fromkeys([*failed, *([deviation.place.path] if deviation is not None else [])]))

    def comparisons(self, seen: Observation) -> Iterator[Patches]:
        """What would make comparisons hold that held in the original."""
        for path, compared in seen.recorder.comparisons.items():
            before = self.seen.recorder.comparisons.get(path, [])
            for old, new in zip(before, compared, strict=False):
                if old.equal and not new.equal and isinstance(new.expression, Slot):
                    yield {new.expression: new.other}

    def _switches(self) -> Iterator[Patches]:
        """Flags that are set in all modules whose attention kernel took another scale, each cleared in all of them."""
        modules = {place.path: self.base.get_submodule(place.path) for place in self.rescaled}
        flags = {name for module in modules.values() for name, value in vars(module).items() if value is True}
        for name in sorted(flags - {"training"}):
            yield {Slot(path, (name,)): False for path, module in modules.items() if vars(module).get(name) is True}

    def _options(self, path: str, patches: Patches, trial: Trial) -> Iterator[tuple[Slot, int]]:
        """Values for the slots of one module, learned ones first, then slots that were read, then the others."""
        candidates = self.matching.sizes.candidates.get(path, {})
        originals = find_slots(self.base)
        conflicting = alternatives(self.demands)
        slots = [slot for slot in self._slots(path, trial) if slot in originals]
        options = [
            (slot, value)
            for slot in slots
            for value in dict.fromkeys(
                (*conflicting.get(slot, ()), *candidates.get(originals[slot], ()), originals[slot])
            )
            if value != patches.get(slot, originals[slot])
        ]
        kind = type(self.base.get_submodule(path))
        learned = [(steps, new) for known, steps, _, new in self.learned if known is kind]
        yield from sorted(options, key=lambda option: (option[0].steps, option[1]) not in learned)

    def _slots(self, path: str, trial: Trial) -> list[Slot]:
        found = dict.fromkeys((*self.read_by(path, trial.observation), *self.read_by(path, self.seen)))
        found.update((slot, None) for slot in find_slots(self.base) if slot.holder == path)
        return list(found)

    def read_by(self, path: str, seen: Observation) -> list[Slot]:
        """Slots whose numbers the forward of a module used in a run."""
        found = dict(seen.recorder.reads.get(path, {}))
        numbers = [number for call in seen.calls if call.place.path == path for number in call.numbers]
        found.update((slot, None) for each in numbers if isinstance(each, Tagged) for slot in slots_of(each.expression))
        return list(found)


def install(model: nn.Module, slim: nn.Module, patches: Patches) -> None:
    """Patch a copy with slim tensors in place, and bring its layers up to date."""
    write(slim, patches)
    follow_tensors(model, slim)
