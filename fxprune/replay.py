"""Data that can be gone through again and again, each time alike, without a trace in PyTorch's random numbers.

A pass over the data has random number generators of its own: before a batch is drawn, their states are exchanged for those
of the pass, and afterwards put back. Every pass begins with the states at the time when the data came in. So a loader that
shuffles yields the same batches in each pass, also one that goes on where an earlier run stopped, and whoever draws random
numbers between two batches has no part in it. The generators are PyTorch's global one on the CPU and those of a
`DataLoader` and its samplers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fxprune.callbacks import noting_data

NOTHING = object()


class Rewound:
    """Every pass over some data, with the random numbers of the first."""

    def __init__(self, data: Iterable[Any]) -> None:
        """Note the states from which passes begin."""
        self._data = data
        self._generators = _generators(data)
        self._start = _states(self._generators)

    def __iter__(self) -> Iterator[Any]:
        """One pass."""
        pass_ = _Pass(self._generators, self._start)
        iterator = pass_.draw(lambda: noting_data(iter, self._data))
        while (batch := pass_.draw(lambda: noting_data(next, iterator, NOTHING))) is not NOTHING:
            yield batch

    def __len__(self) -> int:
        """Number of batches; the error of data that has no length is that data's own."""
        return len(self._data)  # type: ignore[arg-type]


class Kept:
    """The batches of an iterator, drawn when they are first asked for, and kept for later passes.

    Args:
        iterator: drawn from once.
        most: largest number of batches that are drawn.
    """

    def __init__(self, iterator: Iterator[Any], most: int) -> None:
        """Draw nothing yet."""
        self._iterator = iter(Rewound(iterator))
        self._most = most
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        """One pass: what was drawn before, then the rest of the iterator."""
        for at in range(self._most):
            if at == len(self._kept):
                batch = next(self._iterator, NOTHING)
                if batch is NOTHING:
                    return
                self._kept.append(batch)
            yield self._kept[at]


class _Pass:
    """Generators' states in the course of one pass."""

    def __init__(self, generators: Sequence[Generator], start: Sequence[Tensor]) -> None:
        self._generators = generators
        self._own = start

    def draw(self, function: Any) -> Any:
        """What a function returns that draws from the generators."""
        others = _states(self._generators)
        _set(self._generators, self._own)
        try:
            return function()
        finally:
            self._own = _states(self._generators)
            _set(self._generators, others)


def _generators(data: object) -> tuple[Generator, ...]:
    """PyTorch's global generator, and those that a loader or its samplers have."""
    batches = getattr(data, "batch_sampler", None)
    owners = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return (torch.default_generator, *dict.fromkeys(each for each in found if isinstance(each, Generator)))


def _states(generators: Sequence[Generator]) -> list[Tensor]:
    return [each.get_state() for each in generators]


def _set(generators: Sequence[Generator], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
