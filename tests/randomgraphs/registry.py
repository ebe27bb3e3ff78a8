"""The table of building blocks, and the dice they are drawn with.

A block is one function: it takes the dice and the kinds of the values that it is to be applied to, and returns a module
and the kind of its result, or None where it does not fit. To add one, write it in a file named in ``generator.py``::

    @block(Image)
    def blur(draw: Draw, image: Image) -> Made:
        return Apply(lambda x: x / 2), image
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from tests.randomgraphs.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
Made = tuple[nn.Module, Kind]


class Source(Protocol):
    """Where randomness comes from: a seeded generator, or hypothesis, which shrinks towards the low ends."""

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        ...


class Seeded:
    """The same numbers for the same seed, always."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return int(self.generator.integers(low, high, endpoint=True))


@dataclass(frozen=True, slots=True)
class Draw:
    """Dice."""

    source: Source

    def between(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self.source.integer(low, high)

    def one(self, choices: Sequence[T]) -> T:
        """One of several, all as likely."""
        return choices[self.between(0, len(choices) - 1)]

    def chance(self, probability: float = 0.5) -> bool:
        """True with this probability, in steps of a hundredth."""
        return self.between(0, 99) >= 100 - round(100 * probability)

    def some(self, size: int, count: int) -> list[int]:
        """As many different indices below `size` as are asked for, ascending."""
        left = list(range(size))
        return sorted(left.pop(self.between(0, len(left) - 1)) for _ in range(count))

    def width(self) -> int:
        """A number of channels or features."""
        return self.one((4, 6, 8, 9, 10, 12, 15, 16, 18, 20, 24))

    def divisor(self, number: int, *, proper: bool = False) -> int:
        """A divisor of a number; a proper one is neither 1 nor the number, unless there is no other."""
        found = [each for each in range(1, number + 1) if number % each == 0]
        inner = [each for each in found if 1 < each < number]
        return self.one(inner if proper and inner else found)


@dataclass(frozen=True, slots=True)
class Block:
    """A building block: what it takes and how it is made."""

    name: str
    takes: tuple[type[Kind], ...]
    make: Callable[..., Made | None]


BLOCKS: dict[str, Block] = {}


def block(*takes: type[Kind]) -> Callable[[Callable[..., Made | None]], Callable[..., Made | None]]:
    """Register a block for values of these kinds."""

    def register(make: Callable[..., Made | None]) -> Callable[..., Made | None]:
        name = make.__name__
        known = BLOCKS.get(name)
        # A test runner may import one file under two names; two blocks of one name are a mistake.
        assert known is None or known.make.__code__.co_filename == make.__code__.co_filename, name
        BLOCKS[name] = Block(name, takes, make)
        return make

    return register


class Apply(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Any:
        """The function of the values."""
        return self.function(*values)


def activation(draw: Draw, *, inplace: bool = False) -> nn.Module:
    """A random activation; only what owns its input may ask for one that works in place."""
    functions: list[nn.Module] = [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Hardswish(), nn.LeakyReLU(0.2)]
    functions.append(nn.Softplus())
    in_place: list[nn.Module] = [nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardtanh(inplace=True)]
    return draw.one(functions + in_place if inplace else functions)
