"""Batches that the captured graph cannot run: in what they differ from the example inputs, told once a run has failed.

Types, numbers of dimensions and sizes that the graph was captured with may differ as long as the model's operations take them,
so nothing is compared before.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from fxprune.batches import Batch
from fxprune.errors import InputError
from fxprune.program import Program


def unlike_examples(error: Exception, program: Program, batches: Iterable[Batch]) -> InputError | None:
    """The error that names the first batch with another type, rank or fixed size; None where there is none."""
    for batch in batches:
        differing = _difference(program, batch)
        if differing is not None:
            text = str(error).strip().partition("\n")[0]
            msg = (
                f"batch {batch.number} of data cannot be run ({type(error).__name__}: {text}): {differing}. Convert it, or pass "
                "example_inputs of the kind that data holds"
            )
            return InputError(msg)
    return None


def _difference(program: Program, batch: Batch) -> str | None:
    inputs = [node for node in program.nodes if node.op == "placeholder"]
    examples = tree_leaves((program.args, dict(program.kwargs)))
    given = tree_leaves((batch.args, batch.kwargs))
    for node, own, example in zip(inputs, given, examples, strict=False):
        told = f"its input {node.name!r} is {_described(own)}, that of the example inputs {_described(example)}"
        if _kind(own) != _kind(example):
            return told
        if isinstance(own, Tensor) and (fixed := _fixed(node, own)):
            return f"{told}, and the model's graph holds for the sizes of the latter in {fixed}"
    return None


def _fixed(node: Node, given: Tensor) -> str:
    """The dimensions whose size in the graph is a number, and another one than that of a tensor."""
    shape = getattr(node.meta.get("val"), "shape", ())
    sizes = zip(shape, given.shape, strict=False)
    found = [str(dim) for dim, (size, own) in enumerate(sizes) if str(size).isdecimal() and str(size) != str(own)]
    return f"dimension{'s' if len(found) > 1 else ''} {', '.join(found)}" if found else ""


def _kind(value: object) -> object:
    return (value.dtype, value.dim()) if isinstance(value, Tensor) else type(value)


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
