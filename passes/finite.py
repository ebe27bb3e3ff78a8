"""Values that are not finite: where the first one comes from, told once something has failed because of them.

Scorers and the repair only notice that a result of theirs is nan or infinite, and raise `NotFiniteError`. Then the data is run
through the captured graph node by node, up to the first value that is not finite. What is infinite for the example inputs
too is meant to be (the masks of an attention) and passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.batches import Batch
from fxprune.errors import InputError, describe_node
from fxprune.passes.original import Original
from fxprune.program import Program
from fxprune.weights import Weights


class NotFiniteError(InputError):
    """A result is not finite.

    Attributes:
        batch: the one that it was found with, where that is known.
    """

    def __init__(self, message: str, batch: Batch | None = None) -> None:
        """Keep the batch for whoever looks for the cause."""
        super().__init__(message)
        self.batch = batch


def explained(
    error: NotFiniteError, program: Program, batches: Iterable[Batch], weights: Weights | None = None
) -> InputError:
    """The same error, saying in which batch which value is the first that is not finite.

    Args:
        error: what was noticed.
        program: the captured original.
        batches: the data; gone through as far as need be, unless the error knows the batch.
        weights: where parameters come from, if not from the program.
    """
    usual = _found(program, _examples(program, weights), weights)
    count = 0
    for batch in batches if error.batch is None else [error.batch]:
        count += 1
        for node, what in _found(program, batch, weights).items():
            if what == "nan" or usual.get(node) != what:
                return InputError(f"{error}. {_told(node, what, batch)}")
    seen = f"batch {error.batch.number}" if error.batch is not None else f"the first {count} batches"
    return InputError(
        f"{error}. All that the model computes for {seen} of data is finite; look for values that are too large"
    )


def _examples(program: Program, weights: Weights | None) -> Batch:
    """The example inputs, where batches are."""
    inputs = (program.args, dict(program.kwargs))
    if weights is not None:
        inputs = tree_map(lambda leaf: leaf.to(weights.device) if isinstance(leaf, Tensor) else leaf, inputs)
    return Batch(None, *inputs)


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
        >>> import torch
        >>> kind_of(torch.tensor([1.0, float("inf")])), kind_of(torch.zeros(2))
        ('infinity', '')
    """
    tensors = [each for each in tree_leaves(value) if isinstance(each, Tensor) and each.is_floating_point()]
    if any(bool(each.isnan().any()) for each in tensors):
        return "nan"
    return "" if all(bool(each.isfinite().all()) for each in tensors) else "infinity"


def _found(program: Program, batch: Batch, weights: Weights | None) -> dict[Node, str]:
    """What each node's value holds that is not finite, in the order of execution."""
    finder = _Finder(program, weights)
    finder.go_through(batch)
    return finder.found


class _Finder(Original):
    """Runs the captured graph and notes what is not finite."""

    def __init__(self, program: Program, weights: Weights | None) -> None:
        super().__init__(program, weights)
        self.found: dict[Node, str] = {}

    def run_node(self, n: Node) -> Any:
        """Run a node and look at what it gives."""
        value = super().run_node(n)
        if what := kind_of(value):
            self.found[n] = what
        return value
