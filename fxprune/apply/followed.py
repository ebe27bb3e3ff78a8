"""Followed classes: the user's class with some sizes of its forward taken from attributes of the module.

Where no attribute of the user's can say a size (`B, N, C = x.shape; ...reshape(B, N, C)` after the inner width parted
from the outer one), the module gets a subclass of its own class, of the same name, whose method is the user's text with
that one argument replaced: `reshape(B, N, self.slim_reshape_89)`. The number is a plain attribute of the module. All
else is the user's: the other methods, globals, decorators, `super()`.

A followed class is made from its base and a recipe, which says which spans of which functions to replace; pickles hold
those two, never code, so a model is loaded by making the class again from the user's source. That source has to be what
it was: the recipe knows its digest.

No other way is as general and leaves the user a class to read: a hook or a mode that corrects sizes as they pass would
make every forward slower and would not export, and a module that runs a graph is the user's class no more.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from torch import nn

from fxprune.apply.compiling import digest_of, recompile
from fxprune.apply.locate import Reference, bare
from fxprune.apply.source import CannotFollow, Edit, Source, source_of
from fxprune.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One function, rewritten to be a method of a followed class.

    Attributes:
        reference: the user's function.
        method: name that it gets in the class.
        digest: of its text.
        edits: what to replace.
    """

    reference: Reference
    method: str
    digest: str
    edits: tuple[Edit, ...]

    def source(self) -> Source:
        """The user's text.

        Raises:
            CheckpointError: it is another than when the recipe was written.
        """
        function = bare(self.reference.get())
        source = None if function is None else source_of(function.__code__)
        if source is None or digest_of(source.text) != self.digest:
            owner = self.reference.owner
            name = f"{owner if isinstance(owner, str) else owner.__qualname__}.{self.reference.name}"
            msg = (
                f"the source of {name} is another than when the model was slimmed, so what fxprune rewrote in it "
                "cannot be found: install the version of the library that was there then, or apply the plan again"
            )
            raise CheckpointError(msg)
        return source


Recipe = tuple[Rewrite, ...]


class Followed(type):
    """The class of followed classes, by which pickle recognises them."""

    __fxprune_base__: type[nn.Module]
    __fxprune_recipe__: Recipe


def follow_class(base: type[nn.Module], recipe: Recipe) -> type[nn.Module]:
    """A subclass of a module's class whose functions are rewritten; the same for the same recipe.

    Raises:
        CannotFollow: a function cannot be compiled anew.
        CheckpointError: a function's source is another than the recipe is about.
    """
    made: type[nn.Module] = make_class(cast(Hashable, base), recipe)
    return made


@cache
def make_class(base: Any, recipe: Recipe) -> Any:
    """What `follow_class` remembers."""
    namespace: dict[str, Any] = {
        **{rewrite.method: _made(rewrite, rewrite.source()) for rewrite in recipe},
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__fxprune_base__": base,
        "__fxprune_recipe__": recipe,
    }
    return _kind(cast(Hashable, type(base)))(base.__name__, (base,), namespace)


def _made(rewrite: Rewrite, source: Source) -> Any:
    return recompile(rewrite.reference.get(), source, source.edited(rewrite.edits))


@cache
def _kind(base: Any) -> type:
    """The class of classes whose base is of a class."""
    made = Followed if base is type else type(Followed.__name__, (Followed, base), {})
    copyreg.pickle(made, _reduce)
    return made


def _reduce(made: Followed) -> tuple[Any, ...]:
    return _restore, (made.__fxprune_base__, made.__fxprune_recipe__)


def _restore(base: type[nn.Module], recipe: Recipe) -> type[nn.Module]:
    """What pickle calls."""
    try:
        return follow_class(base, recipe)
    except CannotFollow as error:
        raise CheckpointError(str(error)) from error


def rewritten(model: nn.Module) -> Mapping[str, str]:
    """What `apply` had to rewrite of a model's own Python.

    Args:
        model: what `apply` returned.

    Returns:
        For each module whose class was rewritten, by its path, a unified diff of the user's source; the attributes that
        it mentions, and their values, are the module's own. Empty where patched attributes were enough.

    Example:
        >>> import torch
        >>> from fxprune.apply import rewritten
        >>> rewritten(torch.nn.Linear(2, 2))
        {}
    """
    kinds = {path: type(module) for path, module in model.named_modules()}
    return {path: _differences(recipe_of(kind)) for path, kind in kinds.items() if isinstance(kind, Followed)}


def recipe_of(kind: type) -> Recipe:
    """The recipe of a followed class."""
    recipe: Recipe = kind.__dict__["__fxprune_recipe__"]
    return recipe


def _differences(recipe: Recipe) -> str:
    return "".join(_difference(rewrite, rewrite.source()) for rewrite in recipe)


def _difference(rewrite: Rewrite, source: Source) -> str:
    before, after = source.lines, source.edited(rewrite.edits).splitlines(keepends=True)
    name = f"{source.file}:{source.first}"
    return "".join(difflib.unified_diff(before, after, name, f"{name} ({rewrite.method})"))
