"""Parameters and buffers beside their numbers, as JSON: what they are, and how they lie in memory.

    {"name": "conv.weight", "dtype": "float32", "shape": [8, 3, 3, 3], "kind": "parameter", "trained": true,
     "order": [0, 2, 3, 1]}
    {"name": "head.weight", "kind": "parameter", "same_as": "embed.weight"}

`order` says which dimension changes slowest in memory, then the next, where that is not the first, the second, ...
(channels-last convolutions): kernels choose by it, so that outputs are the same to the last bit only if it is kept. A tied
tensor is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import CheckpointError
from fxprune.files.modules import MOST
from fxprune.files.names import is_path, path
from fxprune.files.tensors import DTYPES, Declared, declaration
from fxprune.safe_json import array, fields, flag, integer, mapping, one_of, shown

KINDS = ("parameter", "buffer", "transient")
"""Transient is a buffer that is not part of the state dict: also constants of the graph."""


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A parameter or buffer of a file.

    Attributes:
        name: dotted.
        kind: one of `KINDS`.
        declared: type and shape; None where it is another's.
        trained: whether it requires gradients.
        order: dimensions from the slowest to the fastest in memory.
        same_as: the tensor that it is tied to.
    """

    name: str
    kind: str
    declared: Declared | None
    trained: bool
    order: tuple[int, ...]
    same_as: str | None


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def encode_state(tensors: Mapping[str, Tensor], transient: Iterable[str]) -> list[dict[str, Any]]:
    """What is to be said of tensors; those that are one object are tied.

    Raises:
        CheckpointError: files cannot hold one.
    """
    first: dict[int, str] = {}
    lost = set(transient)
    found: list[dict[str, Any]] = []
    for name, tensor in tensors.items():
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "transient" if name in lost else "buffer"
        if first.setdefault(id(tensor), name) != name:
            found.append({"name": name, "kind": kind, "same_as": first[id(tensor)]})
        else:
            found.append({"name": name, "kind": kind, **_described(name, tensor)})
    return found


def _described(name: str, tensor: Tensor) -> dict[str, Any]:
    if not is_path(name):
        raise CheckpointError(f"the tensor {name!r} has a name that files cannot hold")
    declared, order = declaration(name, tensor), order_of(tensor)
    said: dict[str, Any] = {
        "dtype": str(declared.dtype).removeprefix("torch."),
        "shape": list(declared.shape),
        "trained": tensor.requires_grad,
    }
    return said if order == tuple(range(tensor.dim())) else {**said, "order": list(order)}


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions from the slowest to the fastest in memory; their own order where they are not dense in any."""
    own = tuple(range(tensor.dim()))
    if tensor.is_contiguous():
        return own
    found = tuple(sorted(own, key=tensor.stride, reverse=True))
    return found if tensor.permute(found).is_contiguous() else own


def transient_names(module: nn.Module) -> list[str]:
    """Buffers that are not part of the state dict."""
    return [
        f"{path}.{name}" if path else name
        for path, each in module.named_modules(remove_duplicate=False)
        for name in each._non_persistent_buffers_set
    ]


def decode_state(value: object) -> list[StateEntry]:
    """The tensors that were described.

    Raises:
        CheckpointError: something of them is wrong.
    """
    entries = [_decode(each) for each in array(value, "the tensors", most=MOST)]
    known: dict[str, StateEntry] = {}
    for entry in entries:
        if entry.name in known:
            raise CheckpointError(f"the tensor {shown(entry.name)} is there twice")
        first = entry if entry.same_as is None else known.get(entry.same_as)
        if first is None or first.declared is None:
            raise CheckpointError(f"{shown(entry.name)} is to be {shown(entry.same_as)}, which is no tensor before it")
        if (entry.kind == "parameter") != (first.kind == "parameter"):
            raise CheckpointError(f"{shown(entry.name)} is a parameter and a buffer at once")
        known[entry.name] = entry
    return entries


def _decode(value: object) -> StateEntry:
    given = mapping(value, "a tensor")
    name = path(given.get("name"), "the name of a tensor")
    told = f"the tensor {shown(name)}"
    if "same_as" in given:
        fields(given, told, ("name", "kind", "same_as"))
        return StateEntry(name, one_of(given["kind"], told, KINDS), None, False, (), path(given["same_as"], told))
    fields(given, told, ("name", "kind", "dtype", "shape", "trained"), ("order",))
    dtype = DTYPES[one_of(given["dtype"], f"the dtype of {told}", DTYPES)]
    shape = tuple(integer(each, f"the shape of {told}", least=0) for each in array(given["shape"], told, most=32))
    own = list(range(len(shape)))
    order = array(given.get("order", own), told, most=32)
    if sorted(integer(each, told) for each in order) != own:
        raise CheckpointError(f"the order of {told} does not name each dimension once")
    trained = flag(given["trained"], told)
    if trained and not (dtype.is_floating_point or dtype.is_complex):
        raise CheckpointError(f"{told} is of {dtype} and has a gradient")
    return StateEntry(
        name, one_of(given["kind"], told, KINDS), Declared(name, dtype, shape), trained, tuple(order), None
    )


def restore_tensors(
    entries: Iterable[StateEntry], read: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones one object, where and how they are to lie in memory."""
    made: dict[str, Tensor] = {}
    for entry in entries:
        if entry.same_as is not None:
            made[entry.name] = made[entry.same_as]
            continue
        tensor = _laid(read[entry.name], entry.order).to(device)
        made[entry.name] = (
            nn.Parameter(tensor, entry.trained) if entry.kind == "parameter" else tensor.requires_grad_(entry.trained)
        )
    return made


def _laid(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """A tensor with its dimensions in memory in that order."""
    if order == tuple(range(tensor.dim())):
        return tensor
    slow = tensor.permute(order).contiguous()
    return slow.permute([order.index(dim) for dim in range(tensor.dim())])
