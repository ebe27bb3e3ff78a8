"""The referee: measures a candidate beside the original, by the protocol of `fxprune.bench`.

The original is prepared once and measured again with every candidate, in interleaved rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxprune.backends.base import Backend, Runner
from fxprune.backends.examples import batch_size_of
from fxprune.backends.measure import Call, Latency, Timing, measure_side_by_side
from fxprune.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Referee:
    """Measures candidates.

    Attributes:
        backend: where they run.
        options: of its `prepared`.
        inputs: what they run on.
        timing: how long each is measured.
        runner: the original's.
        call: of the original.
    """

    backend: Backend
    options: Mapping[str, Any]
    inputs: Inputs
    timing: Timing
    runner: Runner
    call: Call

    def measure(self, candidate: nn.Module) -> tuple[Latency, Latency]:
        """Latency of the original and of a candidate, which has its `speedup`.

        Raises:
            BackendError: the backend cannot run the candidate.
        """
        args, kwargs = self.inputs
        with self.backend.prepared(
            candidate, example_inputs=self.inputs, **{"verify": False, **self.options}
        ) as runner:
            found = measure_side_by_side(
                {"original": self.call, "candidate": runner.bind(*args, **kwargs)},
                timing=self.timing,
                clock=self.runner.clock,
                batch_size=batch_size_of(self.inputs),
                device=self.runner.device,
                versions=self.runner.versions,
            )
        return found["original"], found["candidate"]


@contextmanager
def appointed(
    backend: Backend, options: Mapping[str, Any], original: nn.Module, inputs: Inputs, timing: Timing
) -> Iterator[Referee]:
    """A referee for as long as the context lasts.

    Raises:
        BackendError: the backend cannot run the original.
    """
    args, kwargs = inputs
    with backend.prepared(original, example_inputs=inputs, **{"verify": False, **options}) as runner:
        yield Referee(backend, options, inputs, timing, runner, runner.bind(*args, **kwargs))
