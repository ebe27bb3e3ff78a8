"""Several modules prepared at a time, for backends where that is cheaper than one by one.

Such a backend has a method `prepared_together(modules, *, example_inputs, **options)` beside `prepared`: a context that gives
for each module its runner, or the error that says why it cannot run. Exporting to ONNX costs seconds before the first operation
is written, which dozens of small modules pay once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import nn

from fxprune.backends.base import Backend, Runner
from fxprune.errors import FxpruneError
from fxprune.inputs import Inputs

Outcomes: TypeAlias = "list[Runner | FxpruneError]"


@contextmanager
def prepared_all(
    backend: Backend, modules: Sequence[nn.Module], *, example_inputs: Sequence[Inputs], **options: Any
) -> Iterator[Outcomes]:
    """Runners of all modules, or why there is none, for as long as the context lasts.

    Args:
        backend: where they run.
        modules: in eval mode.
        example_inputs: of each.
        options: of the backend's `prepared`, the same for all.
    """
    together: Callable[..., AbstractContextManager[Outcomes]] | None = getattr(backend, "prepared_together", None)
    if together is not None and len(modules) > 1:
        with together(modules, example_inputs=example_inputs, **options) as found:
            yield found
        return
    with prepared_each(backend, modules, example_inputs=example_inputs, **options) as found:
        yield found


@contextmanager
def prepared_each(
    backend: Backend, modules: Sequence[nn.Module], *, example_inputs: Sequence[Inputs], **options: Any
) -> Iterator[Outcomes]:
    """The same, one by one."""
    with ExitStack() as stack:
        found: Outcomes = []
        for module, inputs in zip(modules, example_inputs, strict=True):
            try:
                found.append(stack.enter_context(backend.prepared(module, example_inputs=inputs, **options)))
            except FxpruneError as error:
                found.append(error)
        yield found
