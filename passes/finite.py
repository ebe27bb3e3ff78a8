"""Values that are not finite: where the first one comes from, told once something has failed because of them.

Scorers and the repair only notice that a result of theirs is nan or infinite, and raise `NotFiniteError`. Then the data is run
through the captured graph node by node, up to the first value that is not finite. What is infinite for the example inputs
too is meant to be (the masks of an attention) and passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from fxprune.batches import Batch
from fxprune.errors import InputError, describe_node
from fxprune.passes.lockstep import flat_inputs
from fxprune.passes.masked import private
from fxprune.program import Program


class NotFiniteError(InputError):
    """A result is not finite.

    Attributes:
        batch: the one that it was found with, where that is known.
    """

    def __init__(self, message: str, batch: Batch | None = None) -> None:
        """Keep the batch for whoever looks for the cause."""
        super().__init__(message)
        self.batch = batch


def explained(error: NotFiniteError, program: Program, batches: Iterable[Batch]) -> InputError:
    """The same error, saying in which batch which value is the first that is not finite.

    Args:
        error: what was noticed.
        program: the captured original.
        batches: the data; gone through as far as need be, unless the error knows the batch.
    """
    usual = _found(program, program.args, program.kwargs)
    count = 0
    for batch in batches if error.batch is None else [error.batch]:
        count += 1
        for node, what in _found(program, batch.args, batch.kwargs).items():
            if what == "nan" or usual.get(node) != what:
                return InputError(f"{error}. {_told(node, what, batch)}")
    seen = f"batch {error.batch.number}" if error.batch is not None else f"the first {count} batches"
    return InputError(
        f"{error}. All that the model computes for {seen} of data is finite; look for values that are too large"
    )


def _told(node: Node, what: str, batch: Batch) -> str:
    where = f"batch {batch.number} of data" if batch.number else "the data"
    if node.op == "placeholder":
        return f"The input {node.name!r} in {where} holds {what}"
    if node.op == "get_attr":
        return f"The model's {node.target} holds {what}"
    return f"For {where}, the first value that is not finite ({what}) is computed here:\n{describe_node(node)}"


def kind_of(value: Any) -> str:
    """What a value holds that is not finite: "nan", "infinity", or nothing.

    Example:
        >>> kind_of(torch.tensor([1.0, float("inf")])), kind_of(torch.zeros(2))
        ('infinity', '')
    """
    tensors = [each for each in tree_leaves(value) if isinstance(each, Tensor) and each.is_floating_point()]
    if any(bool(each.isnan().any()) for each in tensors):
        return "nan"
    return "" if all(bool(each.isfinite().all()) for each in tensors) else "infinity"


def _found(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Node, str]:
    """What each node's value holds that is not finite, in the order of execution."""
    finder = _Finder(program.graph_module)
    with torch.no_grad():
        finder.run(*flat_inputs(Batch(None, tuple(args), dict(kwargs))), enable_io_processing=False)
    return finder.found


class _Finder(Interpreter):
    """Runs the captured graph and notes what is not finite."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: dict[Node, str] = {}

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the original; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target))

    def run_node(self, n: Node) -> Any:
        """Run a node and look at what it gives."""
        value = super().run_node(n)
        if what := kind_of(value):
            self.found[n] = what
        return value
