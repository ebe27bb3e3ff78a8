"""Torch's own count of what a module's forward costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fxprune.capture import capture
from fxprune.costs import build_costs
from fxprune.inputs import normalise_inputs
from fxprune.program import Program


def counted(module: nn.Module, inputs: Any) -> int:
    """FLOPs that torch's counter sees, attention by its parts."""
    args, kwargs = normalise_inputs(inputs)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            module(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def parameters(module: nn.Module) -> int:
    """Parameter elements, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(program: Program) -> int:
    """Bytes of all parameters, buffers and constants, shared ones once."""
    stored = (*program.tensors.values(), *program.constants.values())
    return sum(tensor.nbytes for tensor in {id(each): each for each in stored if isinstance(each, Tensor)}.values())


def original(module: nn.Module, inputs: Any) -> dict[str, float]:
    """What fxprune says of a module that nothing can be cut from."""
    return build_costs(capture(module, inputs), None).original
