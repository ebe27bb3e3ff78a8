"""What each operation of a captured model costs at its original sizes: the terms of `build_costs`, not added up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Node

from fxprune.costs.columns import Columns
from fxprune.costs.formulas import node_flops
from fxprune.costs.memory import find_storages
from fxprune.costs.polynomial import Shape
from fxprune.costs.sizes import Sizes
from fxprune.program import Program


@dataclass(frozen=True, slots=True)
class NodeCosts:
    """Costs of one operation, or of an input.

    Attributes:
        node: the operation.
        shape: sizes of its (first) result; None where that is no tensor.
        flops: floating-point operations.
        params: elements of the parameters that it is the first to read.
        activation: bytes that it allocates for its results; 0 for views and operations in place.
    """

    node: Node
    shape: tuple[int, ...] | None
    flops: int
    params: int
    activation: int


def break_down(program: Program) -> tuple[NodeCosts, ...]:
    """Costs of every input and operation, in order of execution."""
    sizes = Sizes(program, Columns(()))
    params = _parameters_by_first_reader(program)
    activations: defaultdict[Node, int] = defaultdict(int)
    for storage in find_storages(program, sizes):
        activations[storage.node] += int(storage.size.coefficient)
    return tuple(
        NodeCosts(
            node=node,
            shape=_plain(sizes.results(node)),
            flops=sum(int(term.coefficient) for term in node_flops(node, sizes)),
            params=params.get(node, 0),
            activation=activations[node],
        )
        for node in program.nodes
        if node.op in ("placeholder", "call_function")
    )


def unreached_parameters(program: Program) -> int:
    """Elements of the parameters that the captured forward does not read."""
    reached = program.reached()
    return sum(program.tensors[name].numel() for name in _parameters(program) if name not in reached)


def _parameters(program: Program) -> Iterator[str]:
    return (name for name in program.tensors if name not in program.buffers and name not in program.aliases)


def _parameters_by_first_reader(program: Program) -> dict[Node, int]:
    counts: defaultdict[Node, int] = defaultdict(int)
    left = set(_parameters(program))
    for node in program.nodes:
        for source in node.all_input_nodes:
            name = program.canonical(str(source.target)) if source.op == "get_attr" else None
            if name is not None and name in left:
                left.remove(name)
                counts[node] += program.tensors[name].numel()
    return dict(counts)


def _plain(results: tuple[Shape | None, ...]) -> tuple[int, ...] | None:
    first = results[0] if results else None
    return None if first is None else tuple(int(size.coefficient) for size in first)
