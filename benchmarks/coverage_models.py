"""The zoo of the coverage benchmark: what models there are, and how one is built, randomised and fed.

An entry is a name, where it comes from, its family, and a builder. Nothing here imports torch before a model is
built: the process that hands out the work stays small. Models are built with random weights from the library that
they come from; nothing is fetched.

`make` then sees to it that no part of a model hides mistakes. What libraries initialise to constants is randomised:
vectors (norms, biases, LayerScale), constant matrices (zero-initialised branches and heads) and BatchNorm statistics,
which are set near what the layer gets for the example input, but not at it. Small random matrices are scaled up to keep the
variance of what they multiply: Transformers' standard deviation of 0.02 would make every attention uniform, so that
exchanged heads would go unnoticed.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 2
LIMIT = 120_000_000
"""Largest number of parameters of a model in the zoo."""


class UnavailableError(Exception):
    """The library is not installed, or its version has no such model; the model is left out of all counts."""


@dataclass(frozen=True, slots=True)
class Example:
    """A model with what one passes to it.

    Attributes:
        model: the module, in eval mode.
        inputs: positional inputs (tuple) or keyword inputs (dict).
        classes: size of the last layer, which users of other libraries name as what is not to be pruned; None where
            there is none.
    """

    model: nn.Module
    inputs: tuple[Any, ...] | dict[str, Any]
    classes: int | None

    def call(self, module: nn.Module) -> Any:
        """Run a module on the inputs."""
        return module(**self.inputs) if isinstance(self.inputs, dict) else module(*self.inputs)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: source and model, such as "timm/levit_128s"; unique.
        source: the part of a library that the summary counts, such as "torchvision video".
        family: what it stands for: a timm module, a kind of Transformers model, or the model itself.
        build: makes the model with its example input.
    """

    name: str
    source: str
    family: str
    build: Callable[[], Example]


def zoo() -> tuple[Entry, ...]:
    """All models, the sources that take longest per model first."""
    from benchmarks import coverage_diffusers, coverage_timm, coverage_torchvision, coverage_transformers

    parts = (coverage_torchvision, coverage_timm, coverage_transformers, coverage_diffusers)
    return tuple(entry for part in parts for entry in part.entries())


def select(patterns: Sequence[str]) -> tuple[Entry, ...]:
    """Entries whose name or source matches one of the patterns (`fnmatch`); all where there are none."""
    if not patterns:
        return zoo()
    return tuple(
        entry
        for entry in zoo()
        if any(fnmatch.fnmatchcase(text, pattern) for text in (entry.name, entry.source) for pattern in patterns)
    )


def find(name: str) -> Entry:
    """The entry of that name."""
    return next(entry for entry in zoo() if entry.name == name)


def make(entry: Entry) -> Example:
    """Build a model, randomise it, and put it into eval mode.

    Raises:
        UnavailableError: the installed libraries do not have it.
    """
    import torch

    torch.manual_seed(0)
    example = entry.build()
    example.model.eval()
    randomise(example)
    return example


def parameters(module: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def images(*shape: int) -> tuple[Any, ...]:
    """One random input of this shape behind the batch dimension."""
    import torch

    return (torch.randn(BATCH, *shape),)


def randomise(example: Example) -> None:
    """Make vectors, constant tensors and BatchNorm statistics random, in place."""
    import torch

    kernels = {
        id(each.weight) for each in example.model.modules() if "Conv" in type(each).__name__ and _has_kernel(each)
    }
    with torch.no_grad():
        for parameter in example.model.parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            if parameter.dim() <= 1 or bool((parameter == parameter.flatten()[0]).all()):
                limit = min(0.3, (3.0 / (parameter.shape[1] if parameter.dim() > 1 else 1)) ** 0.5)
                parameter.add_(torch.empty_like(parameter).uniform_(-limit, limit))
            else:
                _enlarge(parameter, parameter[0].numel() if id(parameter) in kernels else parameter.shape[1])
    _randomise_statistics(example)


def _has_kernel(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() > 2


def _enlarge(matrix: Tensor, width: int) -> None:
    """Give a matrix at least the standard deviation that keeps the variance of `width` inputs."""
    scale = width**-0.5 / float(matrix.std())
    if scale > 1.0:
        matrix.mul_(scale)


def _randomise_statistics(example: Example) -> None:
    """Running means and variances near those of what the layer really gets, so that a deep model neither dies nor explodes.

    One pass, layer by layer: what a layer gets has gone through the perturbed layers before it.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    def perturb(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        others = [dim for dim in range(inputs[0].dim()) if dim != 1]
        variance, mean = torch.var_mean(inputs[0], others, unbiased=False)
        norm.running_mean.copy_(mean + 0.2 * variance.sqrt() * torch.randn_like(mean))
        norm.running_var.copy_(variance * torch.empty_like(variance).uniform_(0.6, 1.6))

    norms = [each for each in example.model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    handles = [norm.register_forward_pre_hook(perturb) for norm in norms]
    with torch.no_grad():
        if norms:
            example.call(example.model)
    for handle in handles:
        handle.remove()
