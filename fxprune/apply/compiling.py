"""Compile an edited function so that it is, in everything but its text, the function that it was.

Its code is compiled inside a class of the same name as around the original (private names, `super()`), inside a function
with the variables that the original is a closure over; of all that only the code is taken, and put together with the
original's globals, closure cells and defaults. Decorators are not run again: their wrappers are copied, with the new
function in the cell that held the old one.
"""

from __future__ import annotations
import __future__

import ast
import functools
import hashlib
import linecache
from types import CellType, CodeType, FunctionType
from typing import Any

from fxprune.apply.locate import bare
from fxprune.apply.source import CannotFollow, Definition, Source

_FUTURES = functools.reduce(
    int.__or__, (getattr(__future__, each).compiler_flag for each in __future__.all_feature_names)
)


def recompile(function: Any, source: Source, text: str) -> Any:
    """A function as it is, decorated, with another text.

    Args:
        function: the original, with its decorators.
        source: its text.
        text: the new one, of the same indentation.

    Raises:
        CannotFollow: a decorator hides the function, or the new text needs a variable that the old one does not have.
    """
    inner = bare(function)
    assert inner is not None
    return _rewrap(function, inner, _compiled(inner, source, text))


def _compiled(function: FunctionType, source: Source, text: str) -> FunctionType:
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    made = _code(source, text, [name for name in cells if name != "__class__"], code.co_flags & _FUTURES)
    missing = [name for name in made.co_freevars if name not in cells]
    if missing:
        raise CannotFollow(f"{code.co_qualname} does not have {missing[0]}")
    closure = tuple(cells[name] for name in made.co_freevars)
    compiled = FunctionType(made, function.__globals__, function.__name__, function.__defaults__, closure)
    compiled.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(compiled, function)
    del vars(compiled)["__wrapped__"]
    return compiled


def _code(source: Source, text: str, free: list[str], flags: int) -> CodeType:
    """The code object of an edited function; its line numbers are those of the text that `_register` keeps."""
    file = _register(source, text)
    indented = text[:1].isspace()
    body = ast.parse(f"if True:\n{text}" if indented else text).body[0]
    definition = body.body[0] if isinstance(body, ast.If) else body
    assert isinstance(definition, Definition)
    definition.decorator_list = []
    around = ast.parse(_AROUND.format(names="".join(f"{name} = " for name in free), name=source.outer or "_"))
    function = around.body[0]
    assert isinstance(function, ast.FunctionDef)
    inner = function.body[1]
    assert isinstance(inner, ast.ClassDef)
    if source.outer is None:
        function.body[1] = definition
    else:
        inner.body = [definition]
    ast.increment_lineno(definition, source.first - (2 if indented else 1))
    return _find(compile(around, file, "exec", flags, dont_inherit=True), definition)


_AROUND = """
def around():
    {names}_ = None
    class {name}: ...
"""


def _find(code: CodeType, definition: Definition) -> CodeType:
    """The code of the definition, which is the only one of its name at its line."""
    codes = [each for each in code.co_consts if isinstance(each, CodeType)]
    for each in codes:
        if each.co_name == definition.name and each.co_firstlineno == definition.lineno:
            return each
    assert len(codes) == 1
    return _find(codes[0], definition)


def _register(source: Source, text: str) -> str:
    """Have tracebacks and debuggers show the new text; returns the name of a file that has it at the same lines."""
    before = linecache.getlines(source.file)[: source.first - 1]
    after = linecache.getlines(source.file)[source.first - 1 + len(source.lines) :]
    whole = [*before, *text.splitlines(keepends=True), *after]
    name = f"{source.file} ({source.definition.name}, slimmed {digest_of(text)[:8]})"
    linecache.cache[name] = (sum(map(len, whole)), None, whole, name)
    return name


def digest_of(text: str) -> str:
    """What tells one text from another."""
    return hashlib.sha256(text.encode()).hexdigest()


def _rewrap(function: Any, inner: FunctionType, new: FunctionType) -> Any:
    """A decorated function with another one inside."""
    if function is inner:
        return new
    cells = function.__closure__ if isinstance(function, FunctionType) else None
    for at, cell in enumerate(cells or ()):
        if bare(cell.cell_contents) is inner:
            wrapped = _rewrap(cell.cell_contents, inner, new)
            closure = (*cells[:at], CellType(wrapped), *cells[at + 1 :])  # type: ignore[index]
            made = FunctionType(
                function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
            )
            made.__kwdefaults__ = function.__kwdefaults__
            functools.update_wrapper(made, function)
            vars(made)["__wrapped__"] = wrapped
            return made
    raise CannotFollow(f"{inner.__qualname__} has a decorator that cannot be copied")
