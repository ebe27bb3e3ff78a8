"""Values of parameters that no process holds whole: fetched one at a time, used, and let go.

A model is then two things: its modules with shapes alone (`stand_in`), which are captured and analysed, and a source of values
(`Weights`), which the captured graph asks for each parameter when it comes to it. Memory is bounded by the largest parameter and
the activations. A source is

- a folder of safetensors files, from which each tensor is read;
- a module that holds the values: spread over several devices, offloaded to the CPU or to disk by accelerate, sharded as
  `DTensor`s (FSDP2, tensor parallelism), or, of several processes, a part of the model in each (pipeline stages): what a process
  lacks the lowest rank that has it sends to all;
- a mapping of names to tensors.

Where parameters travel between processes (`Weights.collective`), all ranks fetch the same names in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributed, nn

from fxprune.capture import structural_copy
from fxprune.distributed import gathered, group_device, world
from fxprune.errors import InputError
from fxprune.program import Program

Given: TypeAlias = "nn.Module | Mapping[str, Tensor] | str | PathLike[str]"
Getter: TypeAlias = Callable[[], Tensor]

SHOWN = 3
"""Names in a message."""


def stand_in(model: nn.Module, given: Given) -> nn.Module:
    """A copy of the modules whose parameters take no memory: zeros of the right shape and type on the CPU.

    Buffers keep their values, of the model itself or, where it has none, of the source.

    Raises:
        InputError: a buffer has no value anywhere.
        CaptureError: something in the model cannot be copied.
    """
    source = {} if isinstance(given, str | PathLike) else _getters(given)
    instead: dict[int, Tensor] = {id(each): _empty(each) for each in model.parameters()}
    missing = []
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if not buffer.is_meta:
            instead[id(buffer)] = buffer.cpu()
        elif name in source:
            instead[id(buffer)] = source[name]().cpu()
        elif id(buffer) not in instead:
            missing.append(name)
    if missing:
        msg = (
            f"buffers without values: {_listed(missing)}. Build the model so that they are computed, as "
            "`accelerate.init_empty_weights()` does, or pass a module that has them as weights="
        )
        raise InputError(msg)
    return structural_copy(model, instead)


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape), parameter.requires_grad)


class Weights:
    """A source of values for a captured stand-in.

    Attributes:
        device: where values are put.
        collective: whether parameters travel between processes, so that all ranks have to fetch alike.
    """

    def __init__(self, program: Program, given: Given, device: torch.device) -> None:
        """Find out who has what.

        Raises:
            InputError: a parameter has no value, or one of another shape.
            CheckpointError: the folder is damaged.
        """
        self.program, self.device = program, device
        self._files, self._paths = ExitStack(), list[Path]()
        in_files = isinstance(given, str | PathLike)
        self._here = {} if in_files else _tensors(given)
        self._elsewhere = {} if in_files else _offloaded(given)
        getters = self._open(Path(given)) if isinstance(given, str | PathLike) else _getters(given)
        self._own = {program.canonical(name): getter for name, getter in getters.items() if name in program.tensors}
        self._holders = _holders(self._own)
        sharded = any(gathered(any(map(_is_sharded, self._here.values()))))
        self.collective = sharded or any(len(ranks) < world()[1] for ranks in self._holders.values())
        needed = [name for name in program.reached() if name not in program.buffers]
        missing = sorted(name for name in needed if name not in self._holders)
        if missing:
            msg = f"the weights hold no value for {_listed(missing)}; names have to be those of the model's state dict"
            raise InputError(msg)

    def attribute(self, name: str) -> Tensor | nn.Module:
        """What the captured graph calls by that name: parameter, buffer or constant, on the device."""
        constant = self.program.constants.get(name)
        return self.fetch(name) if constant is None else constant.to(self.device)

    def fetch(self, name: str) -> Tensor:
        """Parameter or buffer, on the device; on all ranks if it is collective.

        Raises:
            InputError: its shape is not the model's.
        """
        program, known = self.program, self.program.canonical(name)
        if known in program.buffers:
            return program.tensors[name].to(self.device)
        expected = program.tensors[name]
        value = self._own[known]() if known in self._own else None
        if value is not None and value.shape != expected.shape:
            msg = f"the weights' {name!r} has shape {list(value.shape)}, the model's has {list(expected.shape)}"
            raise InputError(msg)
        if len(self._holders[known]) < world()[1]:
            value = _sent(value, expected, self._holders[known][0])
        assert value is not None
        return nn.Parameter(value.to(self.device, expected.dtype), requires_grad=False)

    def follow(self) -> None:
        """Fetch everything that one run of the graph fetches, and use none of it: what a rank without a batch does."""
        for node in self.program.nodes:
            if node.op == "get_attr":
                self.attribute(str(node.target))

    def identity(self) -> list[tuple[Any, ...]]:
        """What tells these weights from others: files with their sizes and times, or the sum of each tensor here."""
        if self._paths:
            return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._paths]
        return [
            *((name, _total(each)) for name, each in sorted(self._here.items())),
            *((name, _total(get())) for name, get in sorted(self._elsewhere.items())),
        ]

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _open(self, path: Path) -> dict[str, Getter]:
        from safetensors import safe_open

        from fxprune.shards.folder import read_folder

        found: dict[str, Getter] = {}
        for shard in read_folder(path).shards:
            file = self._files.enter_context(safe_open(shard.path, "pt"))
            self._paths.append(shard.path)
            found |= {each.name: _reader(file, each.name) for each in shard.tensors}
        return found


def _reader(file: Any, name: str) -> Getter:
    return lambda: file.get_tensor(name)


def _tensors(given: Any) -> dict[str, Tensor]:
    """Name -> tensor, for what is there, whole or a shard of it."""
    if isinstance(given, nn.Module):
        pairs: Iterator[tuple[str, Tensor]] = _named(given)
    elif isinstance(given, Mapping):
        pairs = iter(given.items())
    else:
        msg = f"weights is a {type(given).__name__}; pass a folder, a module, or a mapping of names to tensors"
        raise InputError(msg)
    found = dict(pairs)
    wrong = next((name for name, value in found.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        msg = f"weights[{wrong!r}] is a {type(found[wrong]).__name__}; pass tensors by their names in the state dict"
        raise InputError(msg)
    return {name: value for name, value in found.items() if not value.is_meta}


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _getter(value: Tensor) -> Getter:
    whole: Any = value.detach()
    return whole.full_tensor if _is_sharded(value) else lambda: whole


def _getters(given: Any) -> dict[str, Getter]:
    return {**{name: _getter(each) for name, each in _tensors(given).items()}, **_offloaded(given)}


def _offloaded(given: Any) -> dict[str, Getter]:
    """Parameters and buffers of a module that accelerate keeps on the CPU or on disk, and brings when it runs."""
    if not isinstance(given, nn.Module) or not any(each.is_meta for _, each in _named(given)):
        return {}
    try:
        from accelerate.utils import has_offloaded_params  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return {}
    return {
        f"{path}.{name}" if path else name: partial(_brought, module, name)
        for path, module in given.named_modules(remove_duplicate=False)
        if has_offloaded_params(module)
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if tensor.is_meta
    }


def _brought(module: nn.Module, name: str) -> Tensor:
    """A tensor of an offloaded module, which is not kept."""
    from accelerate.utils import align_module_device  # type: ignore[import-not-found, unused-ignore]

    with align_module_device(module, torch.device("cpu")):
        found: Tensor = getattr(module, name).detach()
        return found


def _total(value: Tensor) -> float:
    """Sum of what is here of a tensor."""
    own: Any = value.detach()
    part: Tensor = own.to_local() if _is_sharded(value) else own
    return float(part.float().sum(dtype=torch.float64))


def _is_sharded(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")


def _holders(own: Mapping[str, Getter]) -> dict[str, list[int]]:
    """Name -> the ranks that have it."""
    found: dict[str, list[int]] = {}
    for rank, names in enumerate(gathered(list(own))):
        for name in names:
            found.setdefault(name, []).append(rank)
    return found


def _sent(value: Tensor | None, expected: Tensor, owner: int) -> Tensor:
    """The owner's value, on every rank."""
    device = group_device()
    travelling = torch.empty(expected.shape, dtype=expected.dtype, device=device)
    if value is not None:
        travelling.copy_(value)
    distributed.broadcast(travelling, owner)
    return travelling


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
