"""From a frame to the functions that have to be rewritten, so that one module and no other gets the change.

The call that goes wrong may stand in a method of the module, or in a function that a method calls, through others
perhaps. The way back from the frame leads, call by call, to a method that the module's class is asked for; all on the
way are rewritten: functions as private methods of the module's new class, and each call of them so that it calls those.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Container, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import nn

from fxprune.apply.observe import Instruction
from fxprune.apply.places import MODULES, users_frames
from fxprune.apply.source import CannotFollow, Source, expression_at, source_of


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a function can be found again.

    Attributes:
        owner: a class, or the name of a module.
        name: there.
    """

    owner: type | str
    name: str

    def get(self) -> Any:
        """The function, as it is decorated."""
        if isinstance(self.owner, type):
            found: Any = self.owner.__dict__[self.name]
            return found.__func__ if isinstance(found, staticmethod) else found
        return getattr(importlib.import_module(self.owner), self.name)


def bare(function: Any) -> FunctionType | None:
    """The function inside its decorators; None for what is no Python function."""
    found = inspect.unwrap(function) if callable(function) else None
    return found if isinstance(found, FunctionType) else None


@dataclass(frozen=True, slots=True)
class Link:
    """One function of the way.

    Attributes:
        called: what it is, and how it is called.
        source: its text.
        node: the expression that it was at.
        frame: alive; of the function, or of a comprehension in it.
        own: the name that the module has in it, or is to get.
        alone: whether each call of it is to have a copy of its own.
    """

    called: Called
    source: Source
    node: ast.expr | ast.AugAssign
    frame: FrameType
    own: str
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Called:
    """What a call calls.

    Attributes:
        reference: the function.
        bound: whether it gets the module as its first argument.
    """

    reference: Reference
    bound: bool


@dataclass(frozen=True, slots=True)
class Way:
    """From the call to a method of a module.

    Attributes:
        module: the module, of the copy that ran.
        links: the functions on the way; the last is a method that the module's class is asked for.
    """

    module: nn.Module
    links: tuple[Link, ...]


def way_from(frame: FrameType, shared: Container[CodeType] = ()) -> Way:
    """The way from a frame to the module on whose behalf it runs.

    Args:
        frame: alive.
        shared: methods that each call of them needs otherwise: the way leads on to who calls them.

    Raises:
        CannotFollow: it leads through what cannot be rewritten.
    """
    links: list[Link] = []
    while True:
        function = _around(frame)
        source = source_of(function.f_code)
        node = expression_at(source, frame.f_code, frame.f_lasti)
        module = _module_of(function)
        reference = None if module is None else _method(type(module), function.f_code)
        if module is not None and reference is not None and function.f_code not in shared:
            own = function.f_code.co_varnames[0]
            return Way(module, (*links, Link(Called(reference, True), source, node, frame, own)))
        caller, called = _caller(function)
        own, alone = _own_name(function.f_code, called.bound), function.f_code in shared
        links.append(Link(called, source, node, frame, own, alone))
        frame = caller


def instructions_from(frame: FrameType) -> tuple[Instruction, ...]:
    """Every instruction of the user's code from a frame out to the forward of the module that runs."""
    return tuple((each.f_code, each.f_lasti) for each in users_frames(frame))


def _own_name(code: CodeType, bound: bool) -> str:
    if bound:
        return code.co_varnames[0]
    taken = {*code.co_varnames, *code.co_freevars, *code.co_names}
    return next(name for name in ("self", "module", "slim_module") if name not in taken)


def _around(frame: FrameType) -> FrameType:
    """The frame of the function that a comprehension, generator or lambda stands in; else the same."""
    found: FrameType | None = frame
    if not frame.f_code.co_name.startswith("<"):
        return frame
    while found is not None and not _is_boundary(found):
        if found is not frame and _contains(found.f_code, frame.f_code) and not found.f_code.co_name.startswith("<"):
            return found
        found = found.f_back
    raise CannotFollow(f"the function around {frame.f_code.co_qualname} is not running")


def _contains(outer: CodeType, inner: CodeType) -> bool:
    return any(each is inner or _contains(each, inner) for each in outer.co_consts if isinstance(each, CodeType))


def _is_boundary(frame: FrameType) -> bool:
    return frame.f_code.co_filename == MODULES


def _module_of(frame: FrameType) -> nn.Module | None:
    """The first argument of a method, if it is a module."""
    code = frame.f_code
    value = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return value if isinstance(value, nn.Module) else None


def _method(kind: type, code: CodeType) -> Reference | None:
    """The method that a class is asked for by the name of a code object, if it has that code."""
    for owner in kind.__mro__:
        if code.co_name in owner.__dict__:
            found = bare(owner.__dict__[code.co_name])
            return Reference(owner, code.co_name) if found is not None and found.__code__ is code else None
    return None


def _caller(function: FrameType) -> tuple[FrameType, Called]:
    """The frame that called a function by a name that can be looked up, and what it called."""
    for frame in users_frames(function.f_back):
        called = _called(frame, function.f_code)
        if called is not None:
            return frame, called
    raise CannotFollow(f"{function.f_code.co_qualname} is called in a way that cannot be rewritten")


def _called(frame: FrameType, code: CodeType) -> Called | None:
    """What the call that a frame is at calls, if it is the function of a code object."""
    try:
        node = expression_at(source_of(_around(frame).f_code), frame.f_code, frame.f_lasti)
    except CannotFollow:
        return None
    called = _lookup(node.func, frame) if isinstance(node, ast.Call) else None
    found = None if called is None else bare(called.reference.get())
    return called if found is not None and found.__code__ is code else None


def _lookup(function: ast.expr, frame: FrameType) -> Called | None:
    """What an expression that is called stands for, where its names say that for good: no local variables."""
    if isinstance(function, ast.Name):
        code = frame.f_code
        is_local = function.id in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
        return None if is_local else _of_module(frame.f_globals.get(function.id))
    if not isinstance(function, ast.Attribute):
        return None
    value = function.value
    if isinstance(value, ast.Name):
        found = frame.f_locals.get(value.id, frame.f_globals.get(value.id))
        if isinstance(found, ModuleType):
            return _of_module(getattr(found, function.attr, None))
        if isinstance(found, type):
            return _of_class(found.__mro__, function.attr, bound=False)
        return _of_class(type(found).__mro__, function.attr, bound=True)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super":
        return _above(frame, function.attr)
    return None


def _of_module(function: Any) -> Called | None:
    """A function of a module; None if it is not found under its own name."""
    owner, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not isinstance(owner, str) or getattr(importlib.import_module(owner), name, None) is not function:
        return None
    return Called(Reference(owner, name), bound=False)


def _of_class(classes: Sequence[type], name: str, *, bound: bool) -> Called | None:
    """A method or static method."""
    for owner in classes:
        if name in owner.__dict__:
            is_static = isinstance(owner.__dict__[name], staticmethod)
            return Called(Reference(owner, name), bound=bound and not is_static)
    return None


def _above(frame: FrameType, name: str) -> Called | None:
    """What `super().name` is."""
    around = frame.f_locals.get("__class__")
    value = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
    if not isinstance(around, type) or value is None:
        return None
    classes = type(value).__mro__
    return _of_class(classes[classes.index(around) + 1 :], name, bound=True)
