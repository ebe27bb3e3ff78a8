"""What is to be written for one module: edits of functions, and the attributes that they mention."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from fxprune.apply.arguments import ArgumentPath
from fxprune.apply.compiling import digest_of
from fxprune.apply.followed import Recipe, Rewrite, follow_class
from fxprune.apply.locate import Link, Reference, Way
from fxprune.apply.source import CannotFollow, Edit, Source
from fxprune.apply.spell import Spot

Value = int | float | tuple[int, ...]
_PREFIX = "slim_"


@dataclass(slots=True)
class Draft:
    """Under way, one call after the other.

    Attributes:
        module: of the copy that runs.
        values: of the new attributes.
        names: attribute of each number that changed: function, line and column, path.
        edits: by function and the method that it becomes.
        sources: of the functions.
    """

    module: nn.Module
    values: dict[str, Value] = field(default_factory=dict)
    names: dict[tuple[Reference, int, int, ArgumentPath], str] = field(default_factory=dict)
    edits: dict[tuple[Reference, str], dict[Edit, None]] = field(default_factory=dict)
    sources: dict[Reference, Source] = field(default_factory=dict)

    def write(self, spot: Spot, way: Way, path: ArgumentPath, value: Value) -> None:
        """Have a number of a call come from an attribute; -1 is written as it is.

        Raises:
            CannotFollow: it cannot be told how, or it is another number each time.
        """
        first = way.links[0]
        text = "-1"
        if value != -1:
            name = self._name(spot, first, path, value)
            if self.values.setdefault(name, value) != value:
                raise CannotFollow(f"one line needs {self.values[name]} as well as {value}: {spot.line}")
            text = f"{first.own}.{name}"
        self._edit(way, 0, spot.spell(path, text, isinstance(value, tuple)))
        for at, link in enumerate(way.links[1:], start=1):
            self._edit(way, at, [_redirect(link, self._method(way, at - 1))])

    def recipe(self) -> Recipe:
        """All edits, as followed classes take them."""
        return tuple(
            Rewrite(reference, method, digest_of(self.sources[reference].text), tuple(sorted(edits)))
            for (reference, method), edits in sorted(self.edits.items(), key=lambda each: each[0][1])
        )

    def install(self, module: nn.Module) -> None:
        """Give a module the class and the attributes.

        Raises:
            CannotFollow: the class cannot be made.
        """
        module.__class__ = follow_class(type(module), self.recipe())
        for name, value in self.values.items():
            module.__dict__[name] = value

    def _name(self, spot: Spot, link: Link, path: ArgumentPath, value: Value) -> str:
        key = (link.called.reference, spot.node.lineno, spot.node.col_offset, path)
        if key not in self.names:
            what = "scale" if isinstance(value, float) else spot.name.strip("_")
            first = f"{_PREFIX}{what}_{spot.node.lineno}"
            taken = (*self.names.values(), *dir(self.module))
            others = (f"{first}_{count}" for count in range(2, 1000))
            self.names[key] = next(name for name in (first, *others) if name not in taken)
        return self.names[key]

    def _method(self, way: Way, at: int) -> str:
        """Name of a function of the way as a method: its own for that which the class is asked for."""
        name = way.links[at].called.reference.name
        return name if at == len(way.links) - 1 else f"{_PREFIX}{name.strip('_')}"

    def _edit(self, way: Way, at: int, edits: Iterable[Edit]) -> None:
        link = way.links[at]
        reference = link.called.reference
        self.sources[reference] = link.source
        found = self.edits.setdefault((reference, self._method(way, at)), {})
        found.update(dict.fromkeys(edits))
        if not link.called.bound:
            found[_parameter(link.source, link.own)] = None


def _redirect(link: Link, method: str) -> Edit:
    """Have a call call a method of the module."""
    assert isinstance(link.node, ast.Call)
    return link.source.replace(link.node.func, f"{link.own}.{method}")


def _parameter(source: Source, name: str) -> Edit:
    """A new first parameter."""
    arguments = source.definition.args
    named = [*arguments.posonlyargs, *arguments.args]
    if not named:
        raise CannotFollow(f"{source.definition.name} has no named parameter")
    position = (named[0].lineno, named[0].col_offset)
    return source.span(position, position, f"{name}, ")
