"""What a module keeps from one forward pass for the next: products of its own parameters, cached in eval mode.

A graph that is captured with a filled cache holds what is cached as a constant and never reads the parameter. Modules that
cache so throw the cache away when they are put into training mode, since parameters change there; that is how it is
emptied here. No other module is put into training mode: some do more then, such as merging weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def empty_caches(model: nn.Module) -> None:
    """Empty them in place; training flags stay as they are.

    Example:
        >>> import torch
        >>> class Scaled(nn.Module):
        ...     cache = None
        ...     def train(self, mode=True):
        ...         self.cache = None if mode else self.cache
        ...         return super().train(mode)
        >>> scaled = Scaled().eval()
        >>> scaled.cache = torch.ones(2)
        >>> empty_caches(scaled)
        >>> scaled.cache, scaled.training
        (None, False)
    """
    for module in model.modules():
        if type(module).train is not nn.Module.train and _keeps_tensors(module):
            flags = {each: each.training for each in module.modules()}
            module.train()
            for each, flag in flags.items():
                each.training = flag


def _keeps_tensors(module: nn.Module) -> bool:
    """Whether it has tensors that are neither parameters nor buffers."""
    attributes = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(attributes))
