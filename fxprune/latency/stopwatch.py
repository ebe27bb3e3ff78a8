"""Timing many small modules on a backend, all by the protocol that latency is measured with (`fxprune.backends.measure`).

Modules are prepared and timed some at a time, in interleaved rounds, so that drift meets all alike. One module, the *anchor*, is
timed in every set of rounds: what it takes there over what it took the first time is how much slower the machine was meanwhile,
and is divided out, so that times of different minutes compare. What counts is the lowest decile of a module's rounds: what the
machine takes when it is left alone, which repeats where a median on a busy machine does not; and where calls do all their work
in one thread, its processor time counts instead of the wall clock's, so that other processes do not. What every call costs
whatever it does (the time of a module with one element, beside the anchor too, which leaves caches cold) is subtracted from
fragments.

A backend may refuse a module (an operation that it cannot export by itself): its time is then unknown, and the reason kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxprune.backends.base import Backend, Runner, own_clock_of
from fxprune.backends.measure import Timing, measure_side_by_side
from fxprune.backends.together import prepared_all
from fxprune.errors import BackendError, FxpruneError
from fxprune.inputs import Inputs
from fxprune.latency.building import located

Make = Callable[[], tuple[nn.Module, Inputs]]

SMALL = Timing(warmup_calls=3, warmup_s=0.3, relative_width=0.03, budget_s=0.15, min_samples=12, max_samples=200)
WHOLE = Timing(warmup_calls=3, warmup_s=1.0, relative_width=0.02, budget_s=1.0, min_samples=12, max_samples=400)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """A backend with the options that models run with on it.

    Attributes:
        backend: where modules run.
        options: of its `prepared`.
    """

    backend: Backend
    options: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def anchored(self, module: nn.Module, inputs: Inputs) -> Iterator[Anchored]:
        """The stopwatch with an anchor, which is prepared once.

        Raises:
            BackendError: the backend cannot run the anchor.
        """
        with self.backend.prepared(module, example_inputs=inputs, verify=False, **self.options) as runner:
            yield Anchored(self, runner, inputs)

    def probe(self, device: torch.device) -> tuple[str, Mapping[str, str]]:
        """What runs here: the device in words, and versions.

        Raises:
            BackendError: the backend cannot run even next to nothing.
        """
        module, inputs = next_to_nothing(device)
        with self.backend.prepared(module, example_inputs=inputs, verify=False, **self.options) as runner:
            runner.run(*inputs[0])
            return runner.device, dict(runner.versions)


@dataclass(frozen=True, slots=True)
class Anchored:
    """A stopwatch that times the anchor beside everything.

    Attributes:
        stopwatch: the backend.
        anchor: ready to run.
        inputs: of the anchor.
    """

    stopwatch: Stopwatch
    anchor: Runner
    inputs: Inputs

    def times(self, makers: Sequence[Make], timing: Timing = SMALL) -> tuple[float, list[float | str]]:
        """Seconds of the anchor, and of each module, in one set of rounds: lowest deciles, or why one cannot be timed."""
        made: dict[int, tuple[nn.Module, Inputs]] = {}
        refused: dict[int, FxpruneError] = {}
        for at, make in enumerate(makers):
            try:
                made[at] = make()
            except FxpruneError as error:
                refused[at] = error
        modules, inputs = [module for module, _ in made.values()], [each for _, each in made.values()]
        with prepared_all(
            self.stopwatch.backend, modules, example_inputs=inputs, verify=False, **self.stopwatch.options
        ) as found:
            runners = {_ANCHOR: self.anchor}
            for at, each in zip(made, found, strict=True):
                if isinstance(each, FxpruneError):
                    refused[at] = each
                else:
                    runners[at] = each
            given = {_ANCHOR: self.inputs, **{at: own for at, (_, own) in made.items()}}
            seconds = _measured(runners, {at: given[at] for at in runners}, timing)
        reasons = {at: " ".join(str(error).split())[:200] for at, error in refused.items()}
        return seconds[_ANCHOR], [seconds[at] if at in seconds else reasons[at] for at in range(len(makers))]


_ANCHOR = -1


class _Least(nn.Module):
    """Next to nothing."""

    def forward(self, one: torch.Tensor) -> torch.Tensor:
        return one.relu()


def next_to_nothing(device: torch.device) -> tuple[nn.Module, Inputs]:
    """A module whose time is what every call costs."""
    return located(_Least().eval(), device), ((torch.ones(1, device=device),), {})


def _measured(runners: Mapping[int, Runner], inputs: Mapping[int, Inputs], timing: Timing) -> dict[int, float]:
    """Lowest decile of each, in seconds, from interleaved rounds."""
    calls = {str(at): runner.bind(*inputs[at][0], **inputs[at][1]) for at, runner in runners.items()}
    clock = own_clock_of(next(iter(runners.values())))
    found = measure_side_by_side(calls, timing=timing, clock=clock)
    deciles = {int(at): latency.deciles_s for at, latency in found.items()}
    if any(each is None for each in deciles.values()):
        raise BackendError("the measurement has no deciles")
    return {at: each[0] for at, each in deciles.items() if each is not None}
