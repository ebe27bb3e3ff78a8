"""A backend whose time is arithmetic: what a module's products cost in tiles of 16, and something for every module.

It runs what it is given, once, under torch's FLOP counter with formulas of its own; so it needs no clock, and the same module
takes the same time on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fxprune.backends.base import Artifact, Runner
from fxprune.backends.examples import flat_tensors
from fxprune.backends.measure import Call, Clock, Latency, Timing
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs

aten = torch.ops.aten
SECONDS = 1e-9
"""Of one multiply-add."""
OVERHEAD = 1e-5
"""Seconds of every call."""


def tiled(size: int, tile: int) -> int:
    return ceil(size / tile) * tile


@dataclass(frozen=True)
class FakeRunner:
    module: nn.Module
    tile: int
    slower: float = 1.0
    device: str = "an abacus"
    versions: Mapping[str, str] = field(default_factory=lambda: {"abacus": "1"})

    @property
    def clock(self) -> Clock:
        return lambda call: float(call())  # type: ignore[arg-type]

    def bind(self, *inputs: Any, **kwinputs: Any) -> Call:
        counter = FlopCounterMode(display=False, custom_mapping=self._formulas())
        with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernel is invisible to the counter
            self.module(*inputs, **kwinputs)
        seconds = (OVERHEAD + SECONDS * counter.get_total_flops()) * self.slower
        return lambda: seconds

    def run(self, *inputs: Any, **kwinputs: Any) -> list[Tensor]:
        return flat_tensors(self.module(*inputs, **kwinputs))

    def _formulas(self) -> dict[Any, Callable[..., int]]:
        def convolution(x: Any, w: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
            return int(
                out_shape[0] * prod(out_shape[2:]) * prod(w[2:]) * tiled(w[0], self.tile) * tiled(w[1], self.tile)
            )

        def addmm(bias: Any, a: Any, b: Any, **_: Any) -> int:
            return int(a[0] * tiled(a[1], self.tile) * tiled(b[1], self.tile))

        def mm(a: Any, b: Any, **_: Any) -> int:
            return addmm(None, a, b)

        return {aten.convolution: convolution, aten.addmm: addmm, aten.mm: mm}


@dataclass
class FakeBackend:
    """Counts what it prepared; refuses modules of a class name; every fifth fragment is unlucky, if there is bad luck."""

    tile: int = 1
    refuses: str = ""
    bad_luck: float = 1.0
    name: str = "fake"
    prepared_modules: list[str] = field(default_factory=list)

    def available(self) -> str | None:
        return None

    def lower(self, *args: Any, **options: Any) -> Artifact:
        _refuse()

    def load(self, path: Path, **options: Any) -> Runner:
        _refuse()

    @contextmanager
    def prepared(
        self, module: nn.Module, *, example_inputs: Inputs, verify: bool = True, **options: Any
    ) -> Iterator[Runner]:
        name = type(module).__name__
        if self.refuses and name == self.refuses:
            raise BackendError(f"no {name} here")
        self.prepared_modules.append(name)
        with evaluating(module):
            unlucky = name == "Fragment" and self.prepared_modules.count(name) % 5 == 0
            yield FakeRunner(module, self.tile, self.bad_luck if unlucky else 1.0)

    def measure(self, module: nn.Module, *, example_inputs: Inputs, timing: Timing, **options: Any) -> Latency:
        _refuse()


def _refuse() -> NoReturn:
    raise BackendError("a fake backend only measures")
