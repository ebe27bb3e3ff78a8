"""Attributes of layers that say a size of the layer's own tensors: read off those tensors.

Layers are recognised by what they hold, not by their class: `in_features` and `out_features` that agree with the
original weight follow the slim one, in `nn.Linear`, its subclasses and what looks like it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_DIMENSIONS = (
    ("weight", ("out_features", "in_features")),
    ("weight", ("nx", "nf")),
    ("weight", ("num_embeddings", "embedding_dim")),
    ("weight", ("num_features",)),
    ("running_mean", ("num_features",)),
    ("weight", ("num_channels",)),
    ("weight", ("num_parameters",)),
    ("weight", ("out_features", "in1_features", "in2_features")),
)
"""(tensor, attributes that say its first dimensions)."""


def layer_sizes(original: nn.Module, slim: nn.Module) -> dict[str, int]:
    """Attributes of one layer that change, with their new values.

    Args:
        original: the layer as it was.
        slim: its copy with slim tensors; a convolution's `groups` is up to date.
    """
    if isinstance(original, _ConvNd):
        return dict(_convolution(slim))
    found: dict[str, int] = {}
    for name, attributes in _DIMENSIONS:
        old, new = getattr(original, name, None), getattr(slim, name, None)
        if not isinstance(old, Tensor) or not isinstance(new, Tensor) or old.dim() < len(attributes):
            continue
        if all(original.__dict__.get(each) == old.shape[at] for at, each in enumerate(attributes)):
            found.update({each: new.shape[at] for at, each in enumerate(attributes)})
    return {name: value for name, value in found.items() if original.__dict__[name] != value}


def _convolution(slim: nn.Module) -> Iterator[tuple[str, int]]:
    weight, groups = slim.weight, slim.groups
    assert isinstance(weight, Tensor)
    assert isinstance(groups, int)
    rows, columns = weight.shape[:2]
    transposed = isinstance(slim, _ConvTransposeNd)
    yield "in_channels", rows if transposed else columns * groups
    yield "out_channels", columns * groups if transposed else rows


def follow_tensors(original: nn.Module, slim: nn.Module) -> None:
    """Bring all layers of a slim copy up to date with their tensors, in place."""
    originals = dict(original.named_modules())
    for path, module in slim.named_modules():
        for name, value in layer_sizes(originals[path], module).items():
            module.__dict__[name] = value
