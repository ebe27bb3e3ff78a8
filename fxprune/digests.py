"""Digests of values: the same for values that are alike, in every process, and different where results may differ.

    digest(compound) = hash(kind, digest(part), digest(part), ...)

Each compound is gone into once; where it holds itself, its distance stands for it. The digests of a set's elements are
sorted, since their order is not the same in another process. What the parts of a value are:

- tensors and arrays: their bytes; lists of plain values all at once; lists, dicts and sets: their elements;
- functions: their code, defaults, function attributes, the variables of functions around them, and the globals they look
  up; of an installed package's functions all but the globals; of PyTorch's, NumPy's, Python's and fxprune's the name;
- classes: what their bodies define, and their bases; instances: their class, and attributes or `__reduce_ex__`;
- modules of PyTorch: parameters, buffers, and class and attributes of each submodule;
- loggers, open files, threads, imported modules and whatever cannot be taken apart: their kind;
- what defines `__fxprune_fingerprint__(self)`: its class and what that returns.

What functions change themselves (`fxprune.bytecode`) does not count, nor attributes that the methods change which are
reached from `__call__`, `forward`, `score`, `__getitem__`, `__iter__`, or from the method that the user passed.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import logging
import marshal
import os
import types
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.code_parts import class_parts, function_parts, is_trusted, package_of, working_state

DEEPEST = 40
"""Levels of values inside values that count."""
HOOK = "__fxprune_fingerprint__"
"""The method by which an object says what counts of it."""
INTERNAL = frozenset(vars(nn.Module())) - {"training"}
"""Attributes in which PyTorch keeps what a module consists of."""
BUSY = ("_thread", "concurrent", "logging", "multiprocessing", "queue", "socket", "subprocess", "threading", "weakref")
"""Packages whose objects are no settings."""
PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})


class Digests:
    """Digests of several values that may share parts."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[int, tuple[object, bytes]] = {}  # the value too, so that its id stays its own
        self._inside: list[int] = []

    def of(self, value: object) -> bytes:
        """The digest of a value."""
        leaf = _leaf(value)
        if leaf is not None:
            return _hashed(value, leaf)
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._inside:
            return _hashed(value, [f"inside {self._inside[::-1].index(id(value))}".encode()])
        if len(self._inside) == DEEPEST:
            return _hashed(value, [])
        self._inside.append(id(value))
        parts = [self.of(part) for part in _parts(value)]
        self._inside.pop()
        found = _hashed(value, sorted(parts) if isinstance(value, set | frozenset) else parts)
        self._known[id(value)] = value, found
        return found


def _hashed(value: object, parts: Iterable[bytes]) -> bytes:
    found = blake2b(digest_size=16)
    for part in (type(value).__qualname__.encode(), *parts):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def _leaf(value: object) -> list[bytes] | None:
    """The bytes that stand for a value that is not gone into; None for others."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | range):
        return [repr(value).encode("utf-8", "surrogatepass")]
    if isinstance(value, torch.dtype | torch.device | torch.layout | types.EllipsisType | torch._ops.OpOverloadPacket):
        return [repr(value).encode()]
    if isinstance(value, torch._ops.OperatorBase):
        return [str(value).encode()]
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return [f"{value.dtype} {value.shape}".encode(), np.ascontiguousarray(value).tobytes()]
    if isinstance(value, bytearray | memoryview):
        return [bytes(value)]
    if type(value) in (list, tuple, deque):
        return _plain(value)  # type: ignore[arg-type]
    if isinstance(value, types.ModuleType | logging.Logger):
        return [value.name.encode() if isinstance(value, logging.Logger) else value.__name__.encode()]
    busy = isinstance(value, io.IOBase | torch.Generator) or package_of(type(value)) in BUSY
    return [] if busy else None


def _tensor(tensor: Tensor) -> list[bytes]:
    kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    if tensor.device.type == "meta":
        return [kind]
    plain = tensor.detach().cpu()
    if plain.layout is not torch.strided or plain.is_quantized:
        return [kind, repr(plain).encode()]
    return [kind, plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]


def _plain(values: Sequence[object] | deque[object]) -> list[bytes] | None:
    """Numbers and texts, or tuples and lists of them, all at once; version 2 writes neither references nor interning."""
    kinds = set(map(type, values))
    inner: Iterable[object] = chain.from_iterable(values) if kinds and kinds <= {tuple, list} else values  # type: ignore[arg-type]
    return [marshal.dumps(list(values), 2)] if set(map(type, inner)) <= PLAIN else None


def _parts(value: object) -> Iterable[object]:
    """What a compound value consists of."""
    if hasattr(type(value), HOOK) and not isinstance(value, type):
        return [type(value), getattr(value, HOOK)()]
    if (original := _before_compilation(value)) is not None:
        return [original]
    if isinstance(value, types.FunctionType):
        return function_parts(value)
    if isinstance(value, type):
        return class_parts(value)
    if isinstance(value, types.MethodType):
        return [value.__func__, *_owner(value)]
    if isinstance(value, types.BuiltinFunctionType):
        bound = None if isinstance(value.__self__, types.ModuleType) else value.__self__
        return [value.__module__, value.__qualname__, bound]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    return (
        _collected(value) if isinstance(value, Mapping | set | frozenset | list | tuple | deque) else _instance(value)
    )


def _before_compilation(value: object) -> object:
    """What `torch.compile` was given to make a function or module; None for others."""
    if isinstance(value, types.FunctionType):
        return value.__dict__.get("_torchdynamo_orig_callable")
    compiled = isinstance(value, nn.Module) and type(value).__name__ == "OptimizedModule"
    return value.__dict__["_modules"].get("_orig_mod") if compiled else None


def _owner(method: types.MethodType) -> list[object]:
    """The object of a method, without what the method changes of it."""
    owner = method.__self__
    whole = hasattr(type(owner), HOOK) or isinstance(owner, Mapping | set | list | tuple) or _leaf(owner) is not None
    return [owner] if whole else _instance(owner, method.__func__.__name__)


def _collected(value: object) -> Iterable[object]:
    """The elements of a collection; also its class, if that is somebody's own, and the attributes it has beside."""
    kind = [] if is_trusted(type(value)) else [type(value), *_attributes(value)]
    if isinstance(value, Mapping):
        return [*kind, *(part for pair in value.items() for part in pair)]
    assert isinstance(value, set | frozenset | list | tuple | deque)
    return [*kind, *value]


def _instance(value: object, *entries: str) -> list[object]:
    """Class and attributes of an object; of one without attributes, what it is rebuilt from."""
    if isinstance(value, type | types.ModuleType):
        return [value]
    if isinstance(value, nn.Module):
        return _module(value, entries)
    if isinstance(value, enum.Enum):
        return [type(value), value.name]
    if isinstance(value, os.PathLike):
        return [type(value), os.fspath(value)]
    if isinstance(value, np.ndarray):
        return [value.shape, value.tolist()]
    length = [len(value)] if isinstance(value, Sequence) else []
    if dataclasses.is_dataclass(value):
        compared = [(each.name, getattr(value, each.name, None)) for each in dataclasses.fields(value) if each.compare]
        hidden = {each.name for each in dataclasses.fields(value)}
        others = [each for each in _attributes(value, *entries) if each[0] not in hidden]
        return [type(value), *length, *compared, *others]
    rebuilt = not hasattr(value, "__dict__") and (is_trusted(type(value)) or not _slots(type(value)))
    return [type(value), *length, *(_reduced(value) if rebuilt else _attributes(value, *entries))]


def _module(module: nn.Module, entries: tuple[str, ...]) -> list[object]:
    children = [
        (name, type(each), _attributes(each, *(entries if each is module else ())), _graph(each))
        for name, each in module.named_modules()
    ]
    return [dict(module.named_parameters()), dict(module.named_buffers()), *children]


def _graph(module: nn.Module) -> str | None:
    """The code of a module whose class does not have it."""
    return str(module.code) if isinstance(module, torch.fx.GraphModule | torch.jit.ScriptModule) else None


def _attributes(value: object, *entries: str) -> list[tuple[str, object]]:
    """Attributes of an object by name, but for working state."""
    cls = type(value)
    found = dict(getattr(value, "__dict__", {})) | {
        name: getattr(value, name) for name in _slots(cls) if hasattr(value, name)
    }
    changes = working_state(cls, entries)
    torchs_own = package_of(cls) == "torch"
    return [
        (str(name), each)
        for name, each in sorted(found.items(), key=lambda pair: str(pair[0]))
        if not (isinstance(value, nn.Module) and name in INTERNAL)
        and not (torchs_own and str(name).startswith("_"))
        and not isinstance(getattr(cls, str(name), None), cached_property)
        and not changes.of_attribute(str(name), each)
    ]


def _slots(cls: type) -> list[str]:
    """Names of the attributes that a class and its bases keep in slots."""
    found: list[str] = []
    for each in cls.__mro__:
        stated = vars(each).get("__slots__", ())
        names = (stated,) if isinstance(stated, str) else tuple(stated)
        private = f"_{each.__name__.lstrip('_')}"
        found += [private + n if n.startswith("__") and not n.endswith("__") else n for n in names]
    return [name for name in found if not name.startswith("__")]


def _reduced(value: object) -> Iterable[object]:
    """What an object is rebuilt from by `copy` and `pickle`, or else how it shows itself."""
    try:
        reduced = value.__reduce_ex__(4)
        return [reduced] if isinstance(reduced, str) else list(reduced[:3])
    except Exception:  # whatever an object raises that cannot be rebuilt, such as a generator or a lock
        shown = repr(value)
        return [] if " at 0x" in shown else [shown]
