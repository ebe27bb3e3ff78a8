"""Random modules, and whatever else is drawn with the same dice, from hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies

from tests.randomgraphs.generator import RandomModule, module_and_inputs
from tests.randomgraphs.registry import Draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy
    from torch import Tensor

T = TypeVar("T")


class Hypothesis:
    """Numbers that hypothesis chooses, and shrinks."""

    def __init__(self, draw: DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self.draw(strategies.integers(low, high))


def drawn_with(make: Callable[[Draw], T]) -> SearchStrategy[T]:
    """The strategy of what a function of dice makes."""

    @strategies.composite
    def made(draw: DrawFn) -> T:
        return make(Draw(Hypothesis(draw)))

    return made()


def random_modules(max_size: int = 6) -> SearchStrategy[tuple[RandomModule, tuple[Tensor, ...]]]:
    """Modules and inputs for them; they shrink towards few and simple blocks."""
    return drawn_with(lambda draw: module_and_inputs(draw, size=draw.between(1, max_size)))
