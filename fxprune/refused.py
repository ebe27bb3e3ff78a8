"""Modules that cannot be captured by their nature, told before anything is tried: wrapped, sharded, scripted, quantised.

What merely looks unusual is taken: hooks, parametrisations, frozen parameters, several types, modules compiled by
`torch.compile`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel")
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes.")


def obstacle(model: nn.Module) -> str | None:
    """Why there is no graph to be had of a module, and what to pass instead; None where nothing is known to be in the way.

    Example:
        >>> obstacle(nn.Linear(2, 2)) is None
        True
    """
    return next((why for why in _obstacles(model) if why), None)


def _obstacles(model: nn.Module) -> Iterator[str | None]:
    for path, module in model.named_modules():
        yield _of_module(path, module)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_traceable_wrapper_subclass(tensor):
            yield _of_tensor(name, tensor)


def _of_module(path: str, module: nn.Module) -> str | None:
    kind = type(module)
    where = f"{path} is" if path else "the model is"
    if isinstance(module, torch.jit.ScriptModule):
        return f"{where} a {kind.__name__}, of which the Python is gone; pass the nn.Module that was scripted or traced"
    if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
        inner = f"model.{path}.module" if path else "model.module"
        return f"{where} wrapped in {kind.__name__}; pass what is inside ({inner}), and wrap the slim module instead"
    if any(getattr(each, "offload", False) for each in _hooks(module)) and any(p.is_meta for p in module.parameters()):
        return (
            f"{where} offloaded by accelerate, which brings its parameters only while it runs; load the model whole, or score it "
            "piece by piece: fxprune.score(plain, ..., weights=model), with `plain` built under accelerate.init_empty_weights()"
        )
    if kind.__module__.startswith(_QUANTISED):
        return f"{where} quantised ({kind.__module__}.{kind.__name__}); prune the model before, and quantise the slim module"
    return None


def _hooks(module: nn.Module) -> list[object]:
    """Those of accelerate, which may stand in a row."""
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [hook]))


def _of_tensor(name: str, tensor: torch.Tensor) -> str:
    kind = type(tensor).__name__
    if kind == "DTensor":
        return f"{name} is a DTensor (fully_shard, for example); prune the model before it is sharded, and shard the slim module"
    return f"{name} is a {kind}, no plain tensor; prune the model before it is quantised or converted, and convert the result"
