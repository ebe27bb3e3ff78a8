"""The nesting of a model's inputs and outputs as JSON.

    null                                       one value
    {"tuple": [..]}, {"list": [..]}            of structures
    {"dict": [[key, structure], ..]}           also "ordered"
    {"named": [class, [[field, structure], ..]]}   a namedtuple
    {"output": [class, [[field, structure], ..]]}  an object of a Transformers or diffusers output class
    {"data": [class, [[field, structure], ..], [field, ..]]}   a registered dataclass, and which fields are None

No class is imported because a file names it. A class counts as there if its module has been imported already, or is one of
`MODULES`, and if it is what the file says: a namedtuple of those fields, or an output class or dataclass that has them. For
others there are `Output`, or a plain tuple for a namedtuple.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

from torch.utils import _pytree as pytree
from torch.utils._pytree import TreeSpec

from fxprune.errors import CheckpointError
from fxprune.files.outputs import Output
from fxprune.files.tensors import pair
from fxprune.safe_json import array, integer, mapping, shown, text, texts

MODULES = frozenset({"transformers.modeling_outputs"})
"""Modules of output classes that are imported where a file names one of their classes and they are installed."""

_NAMED: Any = namedtuple  # noqa: PYI024 - how pytree calls their kind
_LEAF = pytree.tree_structure(0)
_MOST = 10_000


def encode_structure(spec: TreeSpec) -> Any:
    """A structure as JSON.

    Raises:
        CheckpointError: it has a container that files cannot say.
    """
    if spec.is_leaf():
        return None
    parts = [encode_structure(child) for child in spec.children()]
    kind, context = spec.type, spec.context
    if kind in (tuple, list):
        return {kind.__name__: parts}
    if kind in (dict, OrderedDict):
        named = [[_key(key), part] for key, part in zip(context, parts, strict=True)]
        return {"dict" if kind is dict else "ordered": named}
    if kind is _NAMED:
        return {"named": [_name(context), _pairs(context._fields, parts)]}
    if kind is Output:
        return {"output": [context[0], _pairs(context[1], parts)]}
    if isinstance(kind, type) and _is_output(kind):
        return {"output": [_name(kind), _pairs(context, parts)]}
    if dataclasses.is_dataclass(kind) and isinstance(context, list) and len(context) == 2:
        return {"data": [_name(kind), _pairs(context[0], parts), list(context[1])]}
    msg = f"the model takes or returns a {getattr(kind, '__name__', kind)}, which files cannot describe"
    raise CheckpointError(msg)


def _pairs(names: Any, parts: list[Any]) -> list[list[Any]]:
    return [[name, part] for name, part in zip(names, parts, strict=True)]


def _key(key: object) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise CheckpointError(f"the model takes or returns a dictionary with the key {key!r}, which files cannot describe")


def _name(kind: Any) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _is_output(kind: Any) -> bool:
    """Whether a class is a dataclass that is a dictionary of its fields too, as Transformers' outputs are."""
    return issubclass(kind, OrderedDict) and dataclasses.is_dataclass(kind) and kind in pytree.SUPPORTED_NODES


def decode_structure(value: Any, what: str, find: Callable[[str], Any] | None = None) -> TreeSpec:
    """The structure that was encoded.

    Args:
        value: parsed JSON.
        what: what it is called in errors.
        find: from the name of a class to the class, or None; those that are there if left out.

    Raises:
        CheckpointError: it is none.
    """
    if value is None:
        return _LEAF
    find = find or _class
    if len(mapping(value, what)) != 1:
        raise CheckpointError(f"{what} has a container of {len(value)} kinds")
    ((kind, content),) = value.items()
    array(content, what, most=_MOST)
    if kind in ("tuple", "list"):
        parts = [decode_structure(each, what, find) for each in content]
        return TreeSpec({"tuple": tuple, "list": list}[kind], None, parts)
    if kind in ("dict", "ordered"):
        keys, parts = _decoded_pairs(content, what, find)
        return TreeSpec({"dict": dict, "ordered": OrderedDict}[kind], keys, parts)
    if kind in ("named", "output", "data") and len(content) == (3 if kind == "data" else 2):
        names, parts = _decoded_pairs(content[1], what, find)
        absent = texts(content[2], what) if kind == "data" else []
        name = text(content[0], what)
        return _classified(kind, name, find(name), [text(each, what) for each in names], absent, parts)
    raise CheckpointError(f"{what} has a container of the kind {shown(kind)}, which fxprune does not know")


def _decoded_pairs(value: Any, what: str, find: Callable[[str], Any]) -> tuple[list[Any], list[TreeSpec]]:
    pairs = [pair(each, what) for each in array(value, what, most=_MOST)]
    keys = [text(key, what) if isinstance(key, str) else integer(key, what) for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise CheckpointError(f"{what} has a key twice")
    return keys, [decode_structure(part, what, find) for _, part in pairs]


def _classified(
    kind: str, name: str, found: Any, names: list[str], absent: list[str], parts: list[TreeSpec]
) -> TreeSpec:
    if kind == "named":
        fitting = isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == (*names,)
        return TreeSpec(_NAMED, found, parts) if fitting else TreeSpec(tuple, None, parts)
    known = {each.name for each in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    if {*names, *absent} <= known and found in pytree.SUPPORTED_NODES and _is_output(found) == (kind == "output"):
        return TreeSpec(found, names if kind == "output" else [names, absent], parts)
    return TreeSpec(Output, [name, names], parts)


def _class(name: str) -> Any:
    """The class of that name, if its module is there."""
    module, _, path = name.partition(":")
    if module in MODULES and module not in sys.modules:
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError):
            return None
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None
