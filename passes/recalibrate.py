"""BatchNorm recalibration: running statistics measured anew, as a cut changes what each layer sees.

Statistics are averaged over all batches with equal weight (momentum None), in one forward pass; nothing else changes, and
modules other than BatchNorm stay in eval mode. Known as BatchNorm adaptation or re-estimation; ModelOpt's FastNAS and
EagleEye (Li et al., ECCV 2020) evaluate candidates after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.batches import Batch
from fxprune.errors import InputError
from fxprune.passes.finite import NotFiniteError


def recalibrate(module: nn.Module, batches: Iterable[Batch]) -> int:
    """Measure the running statistics of all BatchNorm layers on these batches.

    Args:
        module: changed in its BatchNorm statistics alone.
        batches: inputs; their number and size decide how exact the statistics are.

    Returns:
        The number of layers that were recalibrated.

    Raises:
        InputError: all batches are too small.
        NotFiniteError: a layer's statistics are not finite.
    """
    layers = batchnorms(module)
    if not layers:
        return 0
    with torch.no_grad(), _measuring(module, layers):
        used = [_measure(module, batch) for batch in batches]
        if (wrong := _not_finite(module)) is not None:
            raise _blamed(module, layers, batches, wrong)
    if not any(used):
        msg = "data holds only batches of one sample, which BatchNorm cannot take statistics of; pass larger batches"
        raise InputError(msg)
    return len(layers)


def _not_finite(module: nn.Module) -> str | None:
    """Name of the first BatchNorm layer whose statistics are not finite."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and isinstance(layer.running_var, Tensor):
            assert layer.running_mean is not None
            if not (layer.running_mean.isfinite().all() and layer.running_var.isfinite().all()):
                return str(name)
    return None


def _blamed(module: nn.Module, layers: list[_BatchNorm], batches: Iterable[Batch], name: str) -> NotFiniteError:
    """The error, with the batch on which alone the statistics are not finite."""
    for batch in batches if isinstance(batches, Sequence) else ():  # an iterator is used up by now
        for layer in layers:
            layer.reset_running_stats()
        if _measure(module, batch) and (own := _not_finite(module)) is not None:
            msg = f"the statistics of BatchNorm layer {own!r} on batch {batch.number} of data are not finite"
            return NotFiniteError(msg, batch)
    return NotFiniteError(f"the statistics of BatchNorm layer {name!r} on the data are not finite")


def _measure(module: nn.Module, batch: Batch) -> bool:
    """Run one batch; False for one that is too small for statistics, such as what a loader has left at the end."""
    try:
        batch.run(module)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return False
    return True


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers that keep running statistics."""
    return [
        each
        for each in module.modules()
        if isinstance(each, _BatchNorm) and each.track_running_stats and each.running_mean is not None
    ]


@contextlib.contextmanager
def _measuring(module: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """BatchNorm alone in training mode, with a cumulative average; everything restored but the statistics."""
    modes = {each: each.training for each in module.modules()}
    momenta = [each.momentum for each in layers]
    counts = [each.num_batches_tracked for each in layers]
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.num_batches_tracked = torch.zeros_like(counts[0]) if isinstance(counts[0], Tensor) else None
        layer.training = True
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = count
        for each, mode in modes.items():
            each.training = mode
