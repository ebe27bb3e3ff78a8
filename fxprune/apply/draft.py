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
        names: attribute of each number that changed: method, line and column, path.
        methods: private copies of functions, by who calls them at which line and column.
        edits: by function and the method that it becomes.
        sources: of the functions.
    """

    module: nn.Module
    values: dict[str, Value] = field(default_factory=dict)
    names: dict[tuple[str, int, int, ArgumentPath], str] = field(default_factory=dict)
    methods: dict[tuple[Reference, str, int, int], str] = field(default_factory=dict)
    edits: dict[tuple[Reference, str], dict[Edit, None]] = field(default_factory=dict)
    sources: dict[Reference, Source] = field(default_factory=dict)

    def write(self, spot: Spot, way: Way, path: ArgumentPath, value: Value) -> None:
        """Have a number of a call come from an attribute; -1 is written as it is.

        Raises:
            CannotFollow: it cannot be told how, or it is another number each time.
        """
        first, methods = way.links[0], self._methods(way)
        text = "-1"
        if value != -1:
            name = self._name(spot, methods[0], path, value)
            if self.values.setdefault(name, value) != value:
                raise CannotFollow(f"one line needs {self.values[name]} as well as {value}: {spot.line}")
            text = f"{first.own}.{name}"
        self._edit(first, methods[0], spot.spell(path, text, isinstance(value, tuple)))
        for link, method, called in zip(way.links[1:], methods[1:], methods, strict=False):
            self._edit(link, method, [_redirect(link, called)])

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

    def _name(self, spot: Spot, method: str, path: ArgumentPath, value: Value) -> str:
        key = (method, spot.node.lineno, spot.node.col_offset, path)
        if key not in self.names:
            what = "scale" if isinstance(value, float) else spot.name.strip("_")
            self.names[key] = self._free(f"{_PREFIX}{what}_{spot.node.lineno}", self.names.values())
        return self.names[key]

    def _methods(self, way: Way) -> list[str]:
        """Names of the functions of a way as methods: its own for that which the class is asked for."""
        names = [way.links[-1].called.reference.name]
        for link, caller in zip(way.links[-2::-1], way.links[:0:-1], strict=True):
            site = (names[-1], caller.node.lineno, caller.node.col_offset) if link.alone else ("", 0, 0)
            names.append(self._private(link.called.reference, site))
        return names[::-1]

    def _private(self, reference: Reference, site: tuple[str, int, int]) -> str:
        """Name of a private copy of a function, for the call at one site or for all."""
        if (reference, *site) not in self.methods:
            first = f"{_PREFIX}{reference.name.strip('_')}" + (f"_{site[1]}" if site[0] else "")
            self.methods[reference, *site] = self._free(first, self.methods.values())
        return self.methods[reference, *site]

    def _free(self, name: str, taken: Iterable[str]) -> str:
        """A name, or one like it that is not taken."""
        others = (f"{name}_{count}" for count in range(2, 1000))
        known = {*taken, *dir(self.module)}
        return next(each for each in (name, *others) if each not in known)

    def _edit(self, link: Link, method: str, edits: Iterable[Edit]) -> None:
        reference = link.called.reference
        self.sources[reference] = link.source
        found = self.edits.setdefault((reference, method), {})
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
