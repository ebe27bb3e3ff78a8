"""Spell a change of a call's arguments in the user's own text.

What ran is known: the function, its arguments, which numbers among them have to be others. What stands in the text is
a call, an operator or a subscript; here the one is matched with the other, and every number that changes becomes an
attribute:

    x.reshape(B, N, C)            x.reshape(B, N, self.slim_reshape_7)
    v.view(shape)                 v.view((*shape[:-1], self.slim_view_7))
    x.chunk(2, dim=1)             x.split(self.slim_chunk_7, dim=1)
    q / math.sqrt(d)              q / self.slim_scale_7
    attention(q, k, v)            attention(q, k, v, scale=self.slim_scale_7)
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor

from fxprune.apply.arguments import ArgumentPath, at
from fxprune.apply.locate import Way
from fxprune.apply.source import CannotFollow, Edit, Source, end_of

SCALE: ArgumentPath = (1, "scale")
_SPLITTERS = ("chunk", "unsafe_chunk", "tensor_split")
_REFLECTED = ("__rdiv__", "__rtruediv__", "__rsub__", "__rpow__", "__rfloordiv__", "__rmod__")
_OF_NUMBERS = ("math", "int", "float", "len", "max", "min", "round", "abs", "sum")


@dataclass(frozen=True, slots=True)
class Spot:
    """One call in the text, and the frame that was at it.

    Attributes:
        source: text of the function.
        node: the call.
        name: of the torch function.
        arguments: positional and keyword arguments of the run.
        frame: alive.
    """

    source: Source
    node: ast.expr | ast.AugAssign
    name: str
    arguments: tuple[Any, Any]
    frame: FrameType

    @classmethod
    def at(cls, way: Way, name: str, arguments: tuple[Any, Any]) -> Spot:
        """The spot that a way starts from."""
        first = way.links[0]
        return cls(first.source, first.node, name, arguments, first.frame)

    def spell(self, path: ArgumentPath, text: str, parts: bool) -> list[Edit]:
        """Edits that put `text` where the number of a path comes from.

        Args:
            path: to the number.
            text: the new expression.
            parts: it stands for the sizes of the parts of a split, not for one number.

        Raises:
            CannotFollow: it cannot be told where that is.
        """
        if isinstance(self.node, ast.Call):
            return self._in_call(self.node, path, text, parts)
        if parts or path[:1] != (0,):
            raise self._unclear()
        if isinstance(self.node, ast.Subscript):
            return [self._in_subscript(self.node.slice, path[2:], text)]
        return [self.source.replace(self._number(self.node), text)]

    def _unclear(self) -> CannotFollow:
        return CannotFollow(f"which argument has to change cannot be told from the text: {self.line}")

    @property
    def line(self) -> str:
        """The first line of the call."""
        return self.source.lines[self.node.lineno - self.source.first].strip()

    # Calls

    def _in_call(self, call: ast.Call, path: ArgumentPath, text: str, parts: bool) -> list[Edit]:
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        if called != self.name:
            raise CannotFollow(f"the call of {self.name} does not stand in code that can be rewritten: {self.line}")
        if path == SCALE and "scale" not in self.arguments[1]:
            return [self._add_keyword(call, f"scale={text}")]
        renamed = [self._rename(call.func)] if parts and self.name in _SPLITTERS else []
        if path[0] == 1:
            return [*renamed, self._in_keyword(call, path, text, bool(renamed))]
        offset = 0 if self._is_namespace(call.func) else 1
        return [*renamed, self._in_positional(call, offset, path, text)]

    def _rename(self, function: ast.expr) -> Edit:
        if not isinstance(function, ast.Attribute):
            raise self._unclear()
        line, column = end_of(function)
        return self.source.span((line, column - len(function.attr.encode())), (line, column), "split")

    def _in_keyword(self, call: ast.Call, path: ArgumentPath, text: str, renamed: bool) -> Edit:
        for keyword in call.keywords:
            if keyword.arg != path[1]:
                continue
            if not renamed:
                return self._in_sequence(keyword.value, path, 2, text)
            name = "split_size_or_sections" if self._is_namespace(call.func) else "split_size"
            return self.source.replace(keyword, f"{name}={text}")
        raise self._unclear()

    def _in_positional(self, call: ast.Call, offset: int, path: ArgumentPath, text: str) -> Edit:
        count = len(self.arguments[0]) - offset
        place = path[1] - offset
        starred = [each for each in call.args if isinstance(each, ast.Starred)]
        if place < 0 or len(starred) > 1 or (not starred and place >= len(call.args)):
            raise self._unclear()
        return self._in_elements(call.args, place, count, path, 2, text)

    def _in_elements(
        self, elements: list[ast.expr], place: int, count: int, path: ArgumentPath, depth: int, text: str
    ) -> Edit:
        """The element of that place among expressions, at most one of them starred, that yield `count` values."""
        longer = count - len(elements)
        for expression in elements:
            width = 1 + longer if isinstance(expression, ast.Starred) else 1
            if place < width:
                if isinstance(expression, ast.Starred):
                    return self.source.replace(expression, self._sliced(expression.value, place, width, text))
                return self._in_sequence(expression, path, depth, text)
            place -= width
        raise self._unclear()

    def _in_sequence(self, expression: ast.expr, path: ArgumentPath, depth: int, text: str) -> Edit:
        """The number that the rest of a path leads to from the value of an expression."""
        if len(path) == depth:
            return self.source.replace(expression, text)
        value, place = at(self.arguments, path[:depth]), path[depth]
        if not isinstance(value, tuple | list) or len(path) > depth + 1:
            raise self._unclear()
        return self._element(expression, path, place, len(value), text)

    def _element(self, expression: ast.expr, path: ArgumentPath, place: int, length: int, text: str) -> Edit:
        if isinstance(expression, ast.Tuple | ast.List):
            if sum(isinstance(each, ast.Starred) for each in expression.elts) <= 1:
                return self._in_elements(expression.elts, place, length, path, len(path), text)
        elif isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
            right = expression.right
            if isinstance(right, ast.Tuple | ast.List) and not any(isinstance(e, ast.Starred) for e in right.elts):
                before = length - len(right.elts)
                if place >= before:
                    return self._element(right, path, place - before, len(right.elts), text)
        elements = self._sliced(expression, place, length, text)
        return self.source.replace(expression, f"({elements})" if length > 1 else f"({elements},)")

    def _sliced(self, expression: ast.expr, place: int, length: int, text: str) -> str:
        """All elements of a sequence but one, which is `text`."""
        own = self.source.text_of(expression)
        simple = isinstance(expression, ast.Name | ast.Attribute | ast.Subscript)
        own = own if simple else f"({own})"
        is_last = place + 1 == length
        parts = [f"*{own}[:{-1 if is_last else place}]"] if place else []
        parts.append(text)
        if not is_last:
            if place and any(isinstance(each, ast.Call | ast.NamedExpr) for each in ast.walk(expression)):
                raise self._unclear()
            parts.append(f"*{own}[{place + 1}:]")
        return ", ".join(parts)

    def _add_keyword(self, call: ast.Call, text: str) -> Edit:
        line, column = end_of(call)
        text_of_call = io.StringIO(f"({self.source.text_of(call)})")
        ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
        tokens = [each.string for each in tokenize.generate_tokens(text_of_call.readline) if each.type not in ignored]
        separator = "" if tokens[-3] in (",", "(") else ", "
        return self.source.span((line, column - 1), (line, column - 1), separator + text)

    def _is_namespace(self, function: ast.expr) -> bool:
        """Whether `function` is `torch.reshape` rather than `x.reshape`."""
        if not isinstance(function, ast.Attribute):
            return True
        value = self._resolve(function.value)
        return isinstance(value, ModuleType | type)

    # Operators and subscripts

    def _number(self, node: ast.expr | ast.AugAssign) -> ast.expr:
        """The operand that is the number."""
        if isinstance(node, ast.AugAssign):
            return node.value
        assert isinstance(node, ast.BinOp)
        if self.name in _REFLECTED:
            return node.left
        tensors = [self._is_tensor(node.left), self._is_tensor(node.right)]
        if tensors == [False, False] or tensors == [True, True]:
            raise self._unclear()
        return node.right if tensors[0] else node.left

    def _is_tensor(self, node: ast.expr) -> bool:
        """Whether an expression yields a tensor; calls do unless they are of what is known to yield numbers."""
        value = self._resolve(node)
        if value is not None:
            return isinstance(value, Tensor)
        if isinstance(node, ast.BinOp):
            return self._is_tensor(node.left) or self._is_tensor(node.right)
        if isinstance(node, ast.UnaryOp):
            return self._is_tensor(node.operand)
        if isinstance(node, ast.Subscript):
            return self._is_tensor(node.value)
        if isinstance(node, ast.Attribute):
            return node.attr != "shape"
        if isinstance(node, ast.Call):
            function = node.func
            first = function.value if isinstance(function, ast.Attribute) else function
            known = isinstance(first, ast.Name) and first.id in _OF_NUMBERS
            return not known and not (isinstance(function, ast.Attribute) and function.attr in ("size", "dim", "numel"))
        return not isinstance(node, ast.Constant)

    def _resolve(self, node: ast.expr) -> Any:
        """What names and attributes stand for in the frame; None where that takes running code."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.frame.f_locals.get(node.id, self.frame.f_globals.get(node.id))
        if isinstance(node, ast.Attribute):
            value = self._resolve(node.value)
            if isinstance(value, ModuleType):
                return getattr(value, node.attr, None)
            return getattr(value, "__dict__", {}).get(node.attr)
        return None

    def _in_subscript(self, expression: ast.expr, rest: ArgumentPath, text: str) -> Edit:
        if isinstance(expression, ast.Tuple) and rest and isinstance(rest[0], int):
            expression, rest = expression.elts[rest[0]], rest[1:]
        if isinstance(expression, ast.Slice) and rest in (("start",), ("stop",)):
            bound = expression.lower if rest == ("start",) else expression.upper
            if bound is not None:
                return self.source.replace(bound, text)
        raise self._unclear()
