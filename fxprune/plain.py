"""Frozen dataclasses from plain data (what `dataclasses.asdict` and JSON make of them), checked by their annotations."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Hashable
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from fxprune.safe_json import array, fields, integer, number, text

Made = TypeVar("Made")
_MOST = 10_000_000
_LONGEST = 1_000_000


def from_plain(kind: type[Made], value: object, what: str) -> Made:
    """A dataclass of texts, numbers, optional ones, tuples and further such dataclasses.

    Args:
        kind: the class.
        value: parsed JSON; fields that have defaults may be missing.
        what: what it is called in errors.

    Raises:
        CheckpointError: it has other fields, or a field is of another type.

    Example:
        >>> from fxprune.report import Metric
        >>> from_plain(Metric, {"name": "flops", "before": 2.0, "after": 1.0, "limit": None}, "an example")
        Metric(name='flops', before=2.0, after=1.0, limit=None)
    """
    known = dataclasses.fields(kind)  # type: ignore[arg-type]
    optional = [
        each.name
        for each in known
        if each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
    ]
    given = fields(value, what, [each.name for each in known if each.name not in optional], optional)
    hints = _hints(cast("Hashable", kind))
    return kind(**{name: _of(hints[name], each, f"{name} of {what}") for name, each in given.items()})


@functools.cache
def _hints(kind: Hashable) -> dict[str, Any]:
    """Types of the fields, for all classes inside at once: Python evaluates annotations the first time."""
    found = get_type_hints(kind)
    for hint in found.values():
        for inner in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(inner):
                _hints(cast("Hashable", inner))
    return found


def _of(hint: Any, value: object, what: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        others = [each for each in get_args(hint) if each is not type(None)]
        return None if value is None else _of(others[0], value, what)
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        return tuple(_of(element, each, what) for each in array(value, what, most=_MOST))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return from_plain(hint, value, what)
    if hint is str:
        return text(value, what, longest=_LONGEST)
    return integer(value, what) if hint is int else float(number(value, what))
