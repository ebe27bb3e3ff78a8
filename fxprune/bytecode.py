"""What compiled code says of a function: its content, the globals that it looks up, and what it changes itself.

What a function rebinds (`self.calls += 1`, `global calls`, `nonlocal calls`) or a container that it fills (`calls.append(x)`,
`seen[key] = x`) is its working state rather than a setting: it differs after each call, and says nothing of what the next
call returns. Read off pairs of neighbouring instructions, so that what is filled in a roundabout way is not found.
"""

from __future__ import annotations

import dis
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

FILLING = frozenset({"add", "append", "appendleft", "clear", "discard", "extend", "extendleft"}) | frozenset(
    {"insert", "pop", "popitem", "popleft", "remove", "setdefault", "update"}
)
"""Methods that change a list, a dict, a set or a deque."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Names that code changes itself; attributes, and the others (globals and variables of functions around it).

    Attributes:
        bound: attributes that it binds to something else.
        filled: attributes whose container it fills.
        bound_variables: variables that it binds to something else.
        filled_variables: variables whose container it fills.
    """

    bound: frozenset[str]
    filled: frozenset[str]
    bound_variables: frozenset[str]
    filled_variables: frozenset[str]

    def of_attribute(self, name: str, value: object) -> bool:
        """Whether an attribute is changed, which holds this value now."""
        return name in self.bound or (name in self.filled and _is_container(value))

    def of_variable(self, name: str, value: object) -> bool:
        """Whether a variable is changed, which holds this value now."""
        return name in self.bound_variables or (name in self.filled_variables and _is_container(value))


def content(code: types.CodeType) -> list[object]:
    """Instructions, names and constants, those of functions inside too; not where in a file they stand."""
    own = [each for each in code.co_consts if not isinstance(each, types.CodeType)]
    nested = [content(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return [code.co_code, code.co_names, code.co_freevars, own, nested]


def names_in(code: types.CodeType) -> frozenset[str]:
    """Names of attributes and globals, those of functions inside too."""
    return frozenset(name for each in _all(code) for name in each.co_names)


def globals_in(code: types.CodeType) -> frozenset[str]:
    """Names that are looked up among the globals, those of functions inside too."""
    return frozenset(
        each.argval for part in _all(code) for each in dis.get_instructions(part) if each.opname in _GLOBALS
    )


@lru_cache(maxsize=1024)
def changes_in(*codes: types.CodeType) -> Changes:
    """What the codes change, functions inside included."""
    parts = [part for code in codes for part in _all(code)]
    steps = [[each for each in dis.get_instructions(part) if each.opname != "EXTENDED_ARG"] for part in parts]
    single = [each for part in steps for each in part]
    filled = [each for part in steps for each in _filled(part)]
    return Changes(
        frozenset(each.argval for each in single if each.opname in ("STORE_ATTR", "DELETE_ATTR")),
        frozenset(each.argval for each in filled if each.opname == "LOAD_ATTR"),
        frozenset(each.argval for each in single if each.opname in ("STORE_GLOBAL", "STORE_DEREF")),
        frozenset(each.argval for each in filled if each.opname != "LOAD_ATTR"),
    )


_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_LOADS = ("LOAD_ATTR", "LOAD_DEREF", *_GLOBALS)
_METHODS = ("LOAD_ATTR", "LOAD_METHOD")


def _filled(steps: list[dis.Instruction]) -> Iterator[dis.Instruction]:
    """Loads of a container that is filled: before `.append`, or before a key and a store (`x[k] = v`, `x[k] += v`)."""
    for load, second, third in zip(steps, steps[1:], steps[2:], strict=False):
        if load.opname in _LOADS:
            by_method = second.opname in _METHODS and second.argval in FILLING
            if by_method or third.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "COPY"):
                yield load


def _all(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _all(each)


def _is_container(value: object) -> bool:
    return isinstance(value, list | dict | set | deque | bytearray)
