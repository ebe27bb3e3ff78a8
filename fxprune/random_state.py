"""Random numbers that repeat, without taking any from the user's generators.

`torch.random.fork_rng` would do, but it wakes every GPU and warns where there are several, and `torch.manual_seed` leaves a
seed behind for a CUDA that is initialised later. Here the CPU's generator is seeded and, if CUDA is in use already, those of
its devices; a generator's state lies in host memory, so that no device is woken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def kept_random_state(seed: int | None = 0) -> Iterator[None]:
    """Random numbers from a seed within the block; after it the generators are as they were before.

    Args:
        seed: what the generators start from; with None they go on from where they are.
    """
    own = torch.get_rng_state()
    others = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if others:
                torch.cuda.manual_seed_all(seed)
        yield
    finally:
        torch.set_rng_state(own)
        if others:
            torch.cuda.set_rng_state_all(others)
