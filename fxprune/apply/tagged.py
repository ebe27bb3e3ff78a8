"""Whole numbers that remember where they come from.

`Tagged` is an `int` that carries an expression over slots: `self.num_heads * self.head_dim` of a tagged module is 768
and knows that it is the product of two attributes. Where such a number reaches an operation as a size, the attributes
behind the size are known, whatever their names are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fxprune.apply.places import Place, current_place
from fxprune.apply.slots import Slot


@dataclass(frozen=True, slots=True)
class Derived:
    """What arithmetic made of numbers of which at least one comes from a slot."""

    function: Callable[..., int]
    operands: tuple[Expression | int, ...]


Expression: TypeAlias = Slot | Derived


def evaluate(expression: Expression | int, values: Mapping[Slot, int]) -> int:
    """The number that an expression has under other values of its slots."""
    if isinstance(expression, int):
        return int(expression)
    if isinstance(expression, Slot):
        return values[expression]
    return expression.function(*(evaluate(each, values) for each in expression.operands))


def slots_of(expression: Expression | int) -> Iterator[Slot]:
    """Every slot that occurs in an expression."""
    if isinstance(expression, Slot):
        yield expression
    elif isinstance(expression, Derived):
        for each in expression.operands:
            yield from slots_of(each)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tagged number compared with another: `x.shape[-1] != self.embed_dim`."""

    expression: Expression
    other: int
    equal: bool


@dataclass(slots=True)
class Recorder:
    """What tagged numbers were used for while a model ran, by the path of the module that ran.

    Attributes:
        path: the module that runs now.
        reads: slots that took part in arithmetic or a comparison.
        comparisons: in order.
        floats: slots that became a real number, such as a scale, by line.
    """

    path: str = ""
    reads: dict[str, dict[Slot, None]] = field(default_factory=dict)
    comparisons: dict[str, list[Comparison]] = field(default_factory=dict)
    floats: dict[Place, dict[Slot, None]] = field(default_factory=dict)

    def read(self, expression: Expression) -> None:
        """Remember a use of the slots of an expression."""
        self.reads.setdefault(self.path, {}).update(dict.fromkeys(slots_of(expression)))

    def as_float(self, expression: Expression) -> None:
        """Remember that a real number was computed from an expression."""
        self.floats.setdefault(current_place(self.path), {}).update(dict.fromkeys(slots_of(expression)))


class Tagged(int):
    """An `int` with the expression that it came from."""

    expression: Expression
    recorder: Recorder

    @classmethod
    def of(cls, value: int, expression: Expression, recorder: Recorder) -> Tagged:
        """`value`, that came from `expression`."""
        made = cls(value)
        made.expression, made.recorder = expression, recorder
        return made

    def _derive(self, function: Callable[..., int], *operands: Any) -> Any:
        """The result of whole-number arithmetic, tagged; NotImplemented where an operand is none."""
        if not all(isinstance(each, int) for each in operands):
            return NotImplemented
        expression = Derived(
            function, tuple(each.expression if isinstance(each, Tagged) else each for each in operands)
        )
        self.recorder.read(expression)
        value = function(*(int(each) for each in operands))
        return Tagged.of(value, expression, self.recorder)

    def __add__(self, other: Any) -> Any:
        """`self + other`."""
        return self._derive(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        """`other + self`."""
        return self._derive(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        """`self - other`."""
        return self._derive(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        """`other - self`."""
        return self._derive(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        """`self * other`."""
        return self._derive(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        """`other * self`."""
        return self._derive(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        """`self // other`."""
        return self._derive(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        """`other // self`."""
        return self._derive(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Any:
        """`self % other`."""
        return self._derive(operator.mod, self, other)

    def __rmod__(self, other: Any) -> Any:
        """`other % self`."""
        return self._derive(operator.mod, other, self)

    def __neg__(self) -> Any:
        """`-self`."""
        return self._derive(operator.neg, self)

    def __truediv__(self, other: Any) -> Any:
        """`self / other`, a real number."""
        self.recorder.as_float(self.expression)
        return int.__truediv__(self, other)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        """`self ** other`, taken for a real number: a scale."""
        self.recorder.as_float(self.expression)
        return int.__pow__(self, other, modulo)

    def __float__(self) -> float:
        """What `math.sqrt` takes."""
        self.recorder.as_float(self.expression)
        return int.__float__(self)

    def __eq__(self, other: object) -> bool:
        """Whether the numbers are equal; remembered."""
        return self._compare(other)

    def __ne__(self, other: object) -> bool:
        """Whether they are not; remembered."""
        return not self._compare(other)

    __hash__ = int.__hash__

    def _compare(self, other: object) -> bool:
        if not isinstance(other, int):
            return False
        equal = int(self) == int(other)
        self.recorder.read(self.expression)
        compared = self.recorder.comparisons.setdefault(self.recorder.path, [])
        compared.append(Comparison(self.expression, int(other), equal))
        return equal

    def __copy__(self) -> Tagged:
        """Itself: a number."""
        return self

    def __deepcopy__(self, _: object) -> Tagged:
        """Itself: a number."""
        return self
