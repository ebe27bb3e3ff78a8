"""Source text of functions: the expression that a frame is at, and edits of spans of the text.

Instructions of Python 3.11 and later know line and column of the expression that they came from. A call ends where its
closing bracket is, which no other call does; an operator spans its operands. So the expression of a frame is found
exactly, and an edit is a span of the user's own text with another text in its place: formatting and comments stay.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from types import CodeType

Definition = ast.FunctionDef | ast.AsyncFunctionDef
Position = tuple[int, int]


class CannotFollow(Exception):  # noqa: N818 - not an error of the user's: a reason
    """Why a call cannot be rewritten."""


class NeedsSeveral(CannotFollow):
    """One line of a function needs different numbers in one module.

    Attributes:
        code: of the function.
    """

    def __init__(self, message: str, code: CodeType) -> None:
        """Remember the code."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """A span of a function's text and what is to stand there.

    Attributes:
        start: line, from the function's first one, which is 0; column in bytes.
        end: likewise.
        text: what to put there.
    """

    start: Position
    end: Position
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a function.

    Attributes:
        file: where it stands.
        first: number of its first line (of its decorators, if it has some), from 1.
        lines: its lines.
        definition: its syntax tree; line numbers are the file's.
        outer: name of the class around it, or None.
    """

    file: str
    first: int
    lines: tuple[str, ...]
    definition: Definition
    outer: str | None

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(self.lines)

    def span(self, start: Position, end: Position, text: str) -> Edit:
        """An edit from positions in the file."""
        return Edit((start[0] - self.first, start[1]), (end[0] - self.first, end[1]), text)

    def replace(self, node: ast.expr | ast.keyword, text: str) -> Edit:
        """An edit that puts text in the place of an expression."""
        return self.span((node.lineno, node.col_offset), end_of(node), text)

    def text_of(self, node: ast.expr) -> str:
        """The text of an expression."""
        edit = self.replace(node, "")
        return _cut(self.lines, edit.start, edit.end)

    def edited(self, edits: Iterable[Edit]) -> str:
        """The text with edits made.

        Raises:
            CannotFollow: two of them overlap.
        """
        lines = list(self.lines)
        ordered = sorted(set(edits), reverse=True)
        for later, earlier in pairwise(ordered):
            if earlier.end > later.start:
                raise CannotFollow(f"two sizes of {self.definition.name} would have to be written in one place")
        for edit in ordered:
            (first, column), (last, end) = edit.start, edit.end
            head, tail = lines[first].encode()[:column].decode(), lines[last].encode()[end:].decode()
            lines[first : last + 1] = [head + edit.text + tail]
        return "".join(lines)


def end_of(node: ast.expr | ast.keyword) -> Position:
    """Where an expression ends."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def _cut(lines: Sequence[str], start: Position, end: Position) -> str:
    if start[0] == end[0]:
        return lines[start[0]].encode()[start[1] : end[1]].decode()
    first = lines[start[0]].encode()[start[1] :].decode()
    return "".join([first, *lines[start[0] + 1 : end[0]], lines[end[0]].encode()[: end[1]].decode()])


def source_of(code: CodeType) -> Source:
    """The text of the function that a code object was compiled from.

    Raises:
        CannotFollow: there is none, or it does not have the function at that line.
    """
    lines = linecache.getlines(code.co_filename)
    if not lines:
        raise CannotFollow(f"the source of {code.co_qualname} is not at hand ({code.co_filename})")
    for definition, outer in _definitions("".join(lines)):
        first = min([definition.lineno, *(each.lineno for each in definition.decorator_list)])
        if definition.name == code.co_name and first == code.co_firstlineno:
            end = definition.end_lineno
            return Source(code.co_filename, first, tuple(lines[first - 1 : end]), definition, outer)
    raise CannotFollow(f"{code.co_qualname} is no function of {code.co_filename}, line {code.co_firstlineno}")


@lru_cache(maxsize=64)
def _definitions(text: str) -> list[tuple[Definition, str | None]]:
    """Every function of a file with the class around it."""
    found: list[tuple[Definition, str | None]] = []

    def visit(node: ast.AST, outer: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Definition):
                found.append((child, outer))
                visit(child, None)
            else:
                visit(child, child.name if isinstance(child, ast.ClassDef) else outer)

    try:
        visit(ast.parse(text), None)
    except SyntaxError:
        return []
    return found


def expression_at(source: Source, code: CodeType, instruction: int) -> ast.expr | ast.AugAssign:
    """The call, operator or subscript that an instruction of a function (or of a comprehension in it) came from.

    Raises:
        CannotFollow: there is none.
    """
    line, last, column, end = next(islice(code.co_positions(), instruction // 2, None))
    for node in ast.walk(source.definition):
        if not isinstance(node, ast.Call | ast.BinOp | ast.AugAssign | ast.Subscript):
            continue
        if (node.end_lineno, node.end_col_offset) != (last, end):
            continue
        if isinstance(node, ast.Call) or (node.lineno, node.col_offset) == (line, column):
            return node
    raise CannotFollow(f"the expression at line {line} of {source.file} cannot be told")
