"""Names from files that end up in code: what `torch.fx` writes for a graph holds them as they are.

Values and arguments have to be plain identifiers. Paths of modules and tensors may have other parts (`3x3`), which `torch.fx`
writes between double quotes, so that those must hold neither quotes nor backslashes nor what does not print; nor letters
that Python reads as other letters (NFKC), which could make a harmless name another one.
"""

from __future__ import annotations

import keyword
import re
import unicodedata

from fxprune.errors import CheckpointError
from fxprune.safe_json import shown, text

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_DEEPEST = 100


def is_identifier(name: str) -> bool:
    """Whether a name can stand in code for a value.

    Example:
        >>> is_identifier("conv1"), is_identifier("self"), is_identifier("x): import os #")
        (True, False, False)
    """
    return _IDENTIFIER.fullmatch(name) is not None and not keyword.iskeyword(name) and name != "self"


def identifier(value: object, what: str) -> str:
    """A name that can stand in code for a value.

    Raises:
        CheckpointError: it is none.
    """
    name = text(value, what)
    if not is_identifier(name):
        raise CheckpointError(f"{what} is {shown(name)}, which is no plain name")
    return name


def is_path(path: str) -> bool:
    """Whether a dotted name can stand in code for a module or tensor.

    Example:
        >>> is_path("layer1.0.conv"), is_path("block.3x3"), is_path('a".b'), is_path("a..b")
        (True, True, False, False)
    """
    parts = path.split(".")
    return len(parts) <= _DEEPEST and all(map(_is_part, parts))


def _is_part(part: str) -> bool:
    return (
        0 < len(part) <= 400
        and part.isprintable()
        and '"' not in part
        and "\\" not in part
        and unicodedata.normalize("NFKC", part) == part
    )


def path(value: object, what: str) -> str:
    """A dotted name that can stand in code for a module or tensor.

    Raises:
        CheckpointError: it is none.
    """
    found = text(value, what, longest=40_000)
    if not is_path(found):
        raise CheckpointError(f"{what} is {shown(found)}, which is no name of a module or tensor")
    return found
