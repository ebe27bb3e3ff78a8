"""Example inputs as a backend sees them, and their batch dimension.

The batch size is the size of dimension 0 of the first tensor among the inputs (in pytree order); every tensor with that
size in dimension 0 is taken to carry the batch, the others not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.errors import InputError
from fxprune.inputs import Inputs, normalise_inputs


def example_inputs_of(*modules: nn.Module, given: object = None) -> Inputs:
    """The inputs given, or else the `example_inputs` of the first module that has them.

    Args:
        modules: modules, of which fxprune's have `example_inputs`: a tuple `(args, kwargs)`.
        given: what the user passed: a tuple is positional, a dict keyword, a tensor one argument; None is nothing.

    Raises:
        InputError: there are none, or what is given cannot be inputs.
    """
    if given is not None:
        return normalise_inputs(given)
    for module in modules:
        found = getattr(module, "example_inputs", None)
        if found is not None:
            args, kwargs = found
            return tuple(args), dict(kwargs)
    raise InputError(
        f"{type(modules[0]).__name__} has no example inputs: pass example_inputs=(images,) for positional arguments, "
        "a dict for keyword arguments, or one tensor"
    )


def batch_size_of(inputs: Inputs) -> int | None:
    """Size of the batch dimension; None if no tensor has a dimension."""
    return next((len(leaf) for leaf in pytree.tree_leaves(inputs) if _has_dimension(leaf)), None)


def batch_tensors(inputs: Inputs) -> list[Tensor]:
    """The tensors that carry the batch, in pytree order."""
    size = batch_size_of(inputs)
    return [leaf for leaf in pytree.tree_leaves(inputs) if _has_dimension(leaf) and len(leaf) == size]


def resize_batch(inputs: Inputs, size: int) -> Inputs:
    """The inputs with `size` samples: the given samples, repeated from the first on, or only the first of them."""
    present = batch_size_of(inputs)

    def resized(leaf: Any) -> Any:
        if not _has_dimension(leaf) or len(leaf) != present:
            return leaf
        return leaf.detach()[torch.arange(size, device=leaf.device) % len(leaf)]

    if not present or size == present:
        return inputs
    args, kwargs = pytree.tree_map(resized, inputs)
    return args, kwargs


def cloned(inputs: Inputs) -> Inputs:
    """The inputs with every tensor copied, for modules that write into what they are given."""
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), inputs)
    return args, kwargs


def flat_tensors(tree: object) -> list[Tensor]:
    """The tensors of any nesting of containers, in pytree order; what else is in it is left out."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _has_dimension(leaf: object) -> bool:
    """Whether `leaf` is a tensor with a dimension 0."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0
