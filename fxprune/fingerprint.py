"""Fingerprints: what decides the result of scoring, in a form that two runs can compare part by part.

Tensors count by their bytes, numbers and texts by themselves, functions by their name and their compiled code, other
objects by their class and their attributes; fields of a dataclass that it does not compare by (`field(compare=False)`)
do not count.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.version import __version__

if TYPE_CHECKING:
    from fxprune.analysis import Analysis

DEEPEST = 6
"""Levels of attributes inside attributes that count."""


def fingerprint(
    analysis: Analysis,
    scorer: object,
    data: Iterable[Any] | None,
    functions: Mapping[str, Callable[..., Any] | None],
    seed: int,
) -> dict[str, str]:
    """What decides the scores of a model: name of each part -> its digest.

    Args:
        analysis: of the model, without what is ignored and dropped.
        scorer: with its options.
        data: gone into as far as its first batch.
        functions: the user's own, by the names of `compile`'s arguments.
        seed: the seed.
    """
    program = analysis.program
    tensors = {n: each for n, each in program.tensors.items() if n not in program.transient}
    groups = [(g.name, g.kind, g.size, None if g.outer is None else g.outer.size) for g in analysis.groups]
    parts: dict[str, object] = {
        "model": [(n, tuple(each.shape), str(each.dtype)) for n, each in tensors.items()],
        "weights": {n: each for n, each in tensors.items() if n == program.canonical(n)},
        "groups (ignore, drop, example_inputs)": groups,
        "scorer": scorer,
        "data": _data(data),
        **functions,
        "seed": seed,
        "versions of fxprune and torch": [__version__, str(torch.__version__)],
    }
    return {name: digest(part) for name, part in parts.items()}


def digest(value: object) -> str:
    """A short text that is the same for values that are alike.

    Example:
        >>> digest([1, "a", None]) == digest([1, "a", None]) != digest([1, "b", None])
        True
    """
    found = blake2b(digest_size=16)
    for part in _parts(value, 0, ()):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def _data(data: Iterable[Any] | None) -> object:
    """The first batch, and the number of batches where it is known."""
    if data is None:
        return None
    try:
        count = len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader over a data set without a length
        count = None
    return [count, list(itertools.islice(data, 1))]


def _parts(value: object, depth: int, inside: tuple[int, ...]) -> Iterable[bytes]:
    """The bytes that stand for a value, its kind before them."""
    yield type(value).__qualname__.encode()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        yield from _tensor(value)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif depth > DEEPEST or id(value) in inside:
        return
    else:
        for part in _inner(value):
            yield from _parts(part, depth + 1, (*inside, id(value)))


def _tensor(tensor: Tensor) -> Iterable[bytes]:
    yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    if tensor.device.type == "meta":
        return
    plain = tensor.detach().cpu()
    if plain.layout is not torch.strided or plain.is_quantized:
        yield repr(plain).encode()
        return
    yield plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _inner(value: object) -> Iterable[object]:
    """What a compound value consists of."""
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Sequence):
        return list(value)
    if isinstance(value, nn.Module):
        return [dict(value.named_parameters()), dict(value.named_buffers()), value.extra_repr()]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        return [value.__module__, value.__qualname__, *_code(value.__code__)]
    if isinstance(value, type | types.BuiltinFunctionType):
        return [value.__module__, value.__qualname__]
    if dataclasses.is_dataclass(value):
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value) if each.compare]
    return sorted(getattr(value, "__dict__", {}).items())


def _code(code: types.CodeType) -> list[object]:
    """Instructions, names and constants, those of functions inside too; not where in a file they stand."""
    own = [each for each in code.co_consts if not isinstance(each, types.CodeType)]
    nested = [_code(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return [code.co_code, code.co_names, own, nested]
