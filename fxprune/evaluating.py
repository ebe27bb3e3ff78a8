"""Eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Every sub-module in eval mode while the context lasts; afterwards each has its own flag again.

    The flags are set one by one: `module.eval()` may do more in classes that override it, which could not be undone.
    """
    flags = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in flags:
            child.training = False
        yield module
    finally:
        for child, flag in flags:
            child.training = flag
