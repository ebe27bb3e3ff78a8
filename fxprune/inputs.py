"""Example inputs: how a user may write them, and where they come from when the user gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fxprune.errors import InputError

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def normalise_inputs(example_inputs: Any) -> Inputs:
    """Positional and keyword arguments from a tensor (one argument), a tuple or list (positional) or a dict (keyword).

    Raises:
        InputError: nothing of the kind, or no tensor inside.
    """
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if isinstance(example_inputs, Tensor):
        args, kwargs = (example_inputs,), {}
    elif isinstance(example_inputs, Mapping):
        args, kwargs = (), {str(name): value for name, value in example_inputs.items()}
    elif isinstance(example_inputs, tuple | list):
        args, kwargs = tuple(example_inputs), {}
    else:
        msg = (
            f"example_inputs is a {type(example_inputs).__name__}; pass a tensor, a tuple of positional arguments or "
            "a dict of keyword arguments, for example example_inputs=(torch.randn(1, 3, 224, 224),)"
        )
        raise InputError(msg)
    args, kwargs = torch.utils._pytree.tree_map(_ordinary, (args, kwargs))
    if not any(isinstance(leaf, Tensor) for leaf in torch.utils._pytree.tree_leaves((args, kwargs))):
        msg = "example_inputs holds no tensor; pass what the model's forward takes, such as torch.randn(1, 3, 224, 224)"
        raise InputError(msg)
    return args, kwargs


def _ordinary(leaf: Any) -> Any:
    """A tensor that was made under `torch.inference_mode` as an ordinary one; anything else as it is."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def find_inputs(model: nn.Module, example_inputs: Any) -> tuple[Inputs, tuple[str, ...]]:
    """Example inputs as given, or inferred from the model, with notes that say what was inferred.

    Inferred from, in this order: `model.dummy_inputs` (Transformers), `model.pretrained_cfg` or `model.default_cfg`
    (timm), a 3-channel first 2-d convolution (1x3x224x224).

    Raises:
        InputError: none given and none can be inferred.
    """
    if example_inputs is not None:
        return normalise_inputs(example_inputs), ()
    for infer in (_from_dummy_inputs, _from_timm, _from_first_convolution):
        found = infer(model)
        if found is not None:
            inputs, note = found
            return normalise_inputs(inputs), (note,)
    msg = (
        f"example_inputs is missing and cannot be inferred for {type(model).__name__}: it has no `dummy_inputs`, no "
        "timm `pretrained_cfg`, and no first convolution of 3 channels. Pass what its forward takes, for example "
        "example_inputs=(torch.randn(1, 1, 28, 28),) or "
        "example_inputs={'input_ids': torch.zeros(1, 16, dtype=torch.long)}"
    )
    raise InputError(msg)


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the default device where there is none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.get_default_device()


def _dtype_of(model: nn.Module) -> torch.dtype:
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


def _from_dummy_inputs(model: nn.Module) -> tuple[Any, str] | None:
    dummy = getattr(model, "dummy_inputs", None)
    if not isinstance(dummy, Mapping) or not any(isinstance(value, Tensor) for value in dummy.values()):
        return None
    device = device_of(model)
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in dummy.items()}
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items() if isinstance(value, Tensor))
    return inputs, f"example inputs inferred from model.dummy_inputs: {shapes}"


def _from_timm(model: nn.Module) -> tuple[Any, str] | None:
    for attribute in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, attribute, None)
        size = config.get("input_size") if isinstance(config, Mapping) else None
        if isinstance(size, tuple | list) and all(isinstance(each, int) for each in size):
            return _image(model, (1, *size)), f"example input inferred from model.{attribute}: {_text((1, *size))}"
    return None


def _from_first_convolution(model: nn.Module) -> tuple[Any, str] | None:
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3:
        return None
    shape = (1, 3, 224, 224)
    return _image(model, shape), f"example input inferred from a 3-channel first convolution: {_text(shape)}"


def _image(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device_of(model), _dtype_of(model))


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
