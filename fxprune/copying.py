"""Copies of graphs, without a warning that users can do nothing about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def copying_graphs() -> Iterator[None]:
    """Leave out torch's warning about copied tree specifications, which graphs hold, while the context lasts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
