"""What the interpreter's own tests share: capture, and comparison with a slim result that was written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from tests.reference import alive_shapes, masked_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.reference.parameters import Slices


def randomised(module: nn.Module, seed: int = 0) -> Any:
    """Float64, eval mode, every parameter and statistic random, variances and scales positive."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return module


def randn(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def captured(module: nn.Module, *inputs: Tensor, **kwargs: Any) -> fx.GraphModule:
    """The module's ATen graph."""
    graph = torch.export.export(module, inputs, kwargs, strict=False).module()
    assert isinstance(graph, fx.GraphModule)
    return graph


def check(module: nn.Module, slices: Slices, inputs: tuple[Tensor, ...], slim: Callable[[], Any]) -> None:
    """The interpreter's only output is what ``slim`` computes, and everything alive is dense."""
    graph = captured(module, *inputs)
    alive_shapes(graph, slices, inputs)
    with torch.no_grad():
        expected = slim()
    for shortcut in (True, False):
        (found,) = masked_outputs(graph, slices, inputs, shortcut=shortcut)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
