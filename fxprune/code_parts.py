"""What counts of functions and classes: their code, and what that code works with."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

from fxprune.bytecode import Changes, changes_in, content, globals_in, names_in

TRUSTED = sys.stdlib_module_names | {"fxprune", "numpy", "torch"}
"""Packages whose functions and classes count by name: a fingerprint holds the versions of fxprune and PyTorch."""
ENTRIES = ("__call__", "forward", "score", "__getitem__", "__iter__")
"""Methods that scoring calls."""
NO_CODE = frozenset({"__annotate__", "__annotate_func__"})


def is_trusted(value: type | types.FunctionType) -> bool:
    """Whether something counts by its name alone."""
    return package_of(value) in TRUSTED and not (isinstance(value, types.FunctionType) and _passed_off(value))


def package_of(value: type | types.FunctionType) -> str:
    """The package that defines a class or function; some classes written in C do not say it."""
    name: object = value.__module__
    return name.partition(".")[0] if isinstance(name, str) else "builtins"


def _passed_off(function: types.FunctionType) -> bool:
    """Whether a function has another's name, as decorated functions have (`functools.wraps`)."""
    return hasattr(function, "__wrapped__")


def function_parts(function: types.FunctionType) -> Iterable[object]:
    """Name, code, defaults, attributes, variables around it and, if it is no installed package's, globals."""
    yield function.__module__
    yield function.__qualname__
    if is_trusted(function):
        return
    code = function.__code__
    changes = changes_in(code)
    yield content(code)
    yield function.__defaults__
    yield function.__kwdefaults__
    yield [pair for pair in sorted(function.__dict__.items()) if not changes.of_attribute(*pair)]
    around = {**_closure(function), **({} if _installed(code) else _globals(function))}
    yield [pair for pair in sorted(around.items()) if not changes.of_variable(*pair)]


def class_parts(cls: type) -> Iterable[object]:
    """Name, bases, and what the body defines but for annotations, docstrings and what methods change."""
    yield str(cls.__module__)
    yield cls.__qualname__
    if is_trusted(cls):
        return
    yield cls.__bases__
    changes = working_state(cls, ())
    yield [
        (name, each)
        for name, value in sorted(vars(cls).items())
        for each in _member(value)
        if (isinstance(each, types.FunctionType) and name not in NO_CODE)
        or (not name.startswith("__") and name != "_abc_impl" and not changes.of_attribute(name, each))
    ]


def working_state(cls: type, entries: tuple[str, ...]) -> Changes:
    """What the methods of a class change that are reached, by name, from those that scoring calls."""
    methods = {
        name: each
        for base in reversed(cls.__mro__)
        if not is_trusted(base)
        for name, value in vars(base).items()
        for each in _member(value)
        if isinstance(each, types.FunctionType)
    }
    reached = [name for name in (*ENTRIES, *entries) if name in methods]
    for name in reached:  # grows while it is gone through
        reached += [
            each for each in sorted(names_in(methods[name].__code__)) if each in methods and each not in reached
        ]
    return changes_in(*(methods[name].__code__ for name in reached))


def _member(value: object) -> Iterator[object]:
    """Functions of what a class's body defines; other values as they are, but for slots."""
    if isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield from (each for each in (value.fget, value.fset) if each is not None)
    elif not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        yield value


def _closure(function: types.FunctionType) -> dict[str, object]:
    """Variables of the functions around a function."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return found


def _globals(function: types.FunctionType) -> dict[str, object]:
    """Globals that a function looks up; of a module of the user's, what the function may take from it."""
    known, names = function.__globals__, names_in(function.__code__)
    found = {name: known[name] for name in globals_in(function.__code__) if name in known}
    modules = {name: each for name, each in found.items() if isinstance(each, types.ModuleType)}
    for name, module in modules.items():
        if module.__name__.partition(".")[0] not in TRUSTED and not _is_installed(getattr(module, "__file__", None)):
            found |= {f"{name}.{each}": vars(module)[each] for each in names if each in vars(module)}
    return found


def _installed(code: types.CodeType) -> bool:
    return _is_installed(code.co_filename)


def _is_installed(file: str | None) -> bool:
    """Whether a file belongs to an installed package."""
    return file is None or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
