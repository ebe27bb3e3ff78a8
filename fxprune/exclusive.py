"""What threads must not do at the same time: it changes what belongs to the whole process, and puts it back.

While `torch.export` traces, it patches `torch.nn.Module` itself and keeps its state in globals, so that a module which another
thread runs meanwhile fails, or is traced along. PyTorch's global random number generator and switches of its backends are
exchanged for a while and restored. So the steps that trace, run or build modules hold one lock: threads that call fxprune
take turns, step by step. What else the user's threads do with modules meanwhile, it cannot know.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

EXCLUSIVE = threading.RLock()
"""A thread that has it may take it again."""


def exclusive(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same function, which one thread at a time runs."""

    @functools.wraps(function)
    def alone(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with EXCLUSIVE:
            return function(*args, **kwargs)

    return alone
