"""JSON from files that nobody vouches for: bounded, without repeated keys, and checked as it is taken apart.

`parse` bounds length and nesting and refuses what JSON does not have (NaN) or what readers would disagree about (a key
twice, a number beyond float64). The other functions take a part of what was parsed, of the type that it has to have, or
raise a `CheckpointError` that names the part. Booleans are not whole numbers here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from fxprune.errors import CheckpointError

DEEPEST = 64
"""Levels that values may be nested."""
LARGEST = 2**63 - 1
"""Whole numbers may be as large, and as far below zero."""


def parse(content: bytes | str, what: str, *, longest: int) -> Any:
    """The value of a JSON text.

    Args:
        content: the text, UTF-8.
        what: what it is called in errors.
        longest: bytes, or characters, that it may have.

    Raises:
        CheckpointError: it is longer, nested too deep, no JSON, or has a key twice.

    Example:
        >>> parse('{"a": [1, 2.5]}', "an example", longest=100)
        {'a': [1, 2.5]}
    """
    if len(content) > longest:
        raise CheckpointError(f"{what} has {len(content):,} bytes; it may have {longest:,}")
    try:
        decoded = content if isinstance(content, str) else content.decode()
        found = json.loads(
            decoded, object_pairs_hook=_without_repetition, parse_float=_finite, parse_constant=_no_constant
        )
    except RecursionError:
        raise CheckpointError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise CheckpointError(f"{what} cannot be read as JSON: {error}") from error
    _check_depth(found, what)
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def _finite(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"the number {text[:40]} is out of range")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: Any, what: str) -> None:
    """Level by level, so that no depth is a recursion."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise CheckpointError(f"{what} is nested more than {DEEPEST} levels deep")
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]


def fields(value: object, what: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """An object with exactly these fields.

    Raises:
        CheckpointError: it is none, or a field is missing or unknown.

    Example:
        >>> fields({"a": 1}, "an example", ["a"])
        {'a': 1}
        >>> fields({"a": 1, "b": 2}, "an example", ["a"])
        Traceback (most recent call last):
        fxprune.errors.CheckpointError: an example has the unknown field 'b'
    """
    if not isinstance(value, dict):
        raise _not(value, what, "an object")
    missing = [name for name in required if name not in value]
    unknown = sorted(value.keys() - {*required, *optional})
    if missing or unknown:
        which = f"lacks the field {missing[0]!r}" if missing else f"has the unknown field {unknown[0]!r}"
        raise CheckpointError(f"{what} {which}")
    return value


def mapping(value: object, what: str) -> dict[str, Any]:
    """An object with any fields."""
    if not isinstance(value, dict):
        raise _not(value, what, "an object")
    return value


def array(value: object, what: str, *, most: int) -> list[Any]:
    """A list of at most so many elements."""
    if not isinstance(value, list):
        raise _not(value, what, "a list")
    if len(value) > most:
        raise CheckpointError(f"{what} has {len(value):,} elements; it may have {most:,}")
    return value


def text(value: object, what: str, *, longest: int = 4096) -> str:
    """A text of at most so many characters."""
    if not isinstance(value, str):
        raise _not(value, what, "a text")
    if len(value) > longest:
        raise CheckpointError(f"{what} has {len(value):,} characters; it may have {longest:,}")
    return value


def flag(value: object, what: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _not(value, what, "true or false")
    return value


def integer(value: object, what: str, *, least: int = -LARGEST, most: int = LARGEST) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _not(value, what, "a whole number")
    if not least <= value <= most:
        raise CheckpointError(f"{what} is out of range")
    return value


def number(value: object, what: str) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _not(value, what, "a number")
    if isinstance(value, int):
        integer(value, what)
    return value


def texts(value: object, what: str, *, most: int = 4096) -> list[str]:
    """A list of texts."""
    return [text(each, f"{what}, element {at}") for at, each in enumerate(array(value, what, most=most))]


def one_of(value: object, what: str, known: Mapping[str, Any] | Collection[str]) -> str:
    """A text that is one of those known."""
    found = text(value, what)
    if found not in known:
        raise CheckpointError(f"{what} is {shown(found)}, which fxprune does not know")
    return found


def shown(value: object, most: int = 80) -> str:
    """A value for an error message, without what is too long for one."""
    found = repr(value[:most] if isinstance(value, str) else value) if _is_short(value) else type(value).__name__
    return found if len(found) <= most + 2 else f"{found[:most]}..."


def short(text: str, most: int = 200) -> str:
    """The beginning of a name that may have any length.

    Example:
        >>> short("layers.0.weight"), short("x" * 300, most=3)
        ('layers.0.weight', 'xxx...')
    """
    return text if len(text) <= most else f"{text[:most]}..."


def _is_short(value: object) -> bool:
    return value is None or isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) <= LARGEST)


def _not(value: object, what: str, wanted: str) -> CheckpointError:
    return CheckpointError(f"{what} is {shown(value)}, not {wanted}")


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""From the data of one schema to that of the next."""


def upgraded(
    data: dict[str, Any], what: str, current: int, upgrades: Mapping[int, Upgrade] | None = None
) -> dict[str, Any]:
    """Data of any schema that was ever written, as that of today; `schema` is among its fields.

    Args:
        data: what was read.
        what: what it is called in errors.
        current: the schema that this version writes.
        upgrades: older schema -> function to the next one.

    Raises:
        CheckpointError: it has no schema, a newer one, or one too old.

    Example:
        >>> upgraded({"schema": 1, "size": 3}, "an example", 2, {1: lambda old: {"schema": 2, "sizes": [old["size"]]}})
        {'schema': 2, 'sizes': [3]}
    """
    schema = integer(mapping(data, what).get("schema"), f"the schema of {what}")
    if schema > current:
        msg = f"{what} has schema {schema}; this version of fxprune reads schema {current}. Update fxprune"
        raise CheckpointError(msg)
    while schema < current:
        if upgrades is None or schema not in upgrades:
            raise CheckpointError(f"{what} has schema {schema}, which this version of fxprune no longer reads")
        data, schema = upgrades[schema](data), schema + 1
        assert data["schema"] == schema
    return data
