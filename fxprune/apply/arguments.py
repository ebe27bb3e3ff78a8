"""The numbers among the arguments of a call, each with the way to it.

A path says how to reach a number: `(0, 1)` is the second positional argument, `(0, 1, 2)` the third element of the
sequence that it is, `(1, "dim")` the keyword `dim`, `(0, 1, "stop")` the end of a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

ArgumentPath: TypeAlias = tuple[Any, ...]
Number: TypeAlias = int | float


def numbers_of(value: Any, path: ArgumentPath = ()) -> Iterator[tuple[ArgumentPath, Number]]:
    """Every whole and real number in order of the arguments."""
    if isinstance(value, int | float):
        if not isinstance(value, bool):
            yield path, value
        return
    for step, each in _children(value):
        yield from numbers_of(each, (*path, step))


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, tuple | list):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, slice):
        yield from (("start", value.start), ("stop", value.stop), ("step", value.step))


def with_numbers(value: Any, new: Mapping[ArgumentPath, Any], path: ArgumentPath = ()) -> Any:
    """The arguments with others in the place of some numbers."""
    if path in new:
        return new[path]
    if not any(each[: len(path)] == path for each in new):
        return value
    made = {step: with_numbers(each, new, (*path, step)) for step, each in _children(value)}
    if isinstance(value, slice):
        return slice(made["start"], made["stop"], made["step"])
    if isinstance(value, dict):
        return made
    return list(made.values()) if isinstance(value, list) else tuple(made.values())


def at(value: Any, path: ArgumentPath) -> Any:
    """What a path leads to."""
    for step in path:
        value = getattr(value, step) if isinstance(value, slice) else value[step]
    return value
