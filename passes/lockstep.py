"""The original and the slim model side by side: both graphs, node by node, over all calibration batches at once.

Layer after layer, everything that the slim model computes is known together with what the original computes there, so that
one pass suffices to repair every layer on the inputs that repaired layers before it give. Each batch has an environment of
values for each graph; a value is freed after its last use, so that memory is bounded by what one batch needs at the widest
place of the network, times the number of batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from fxprune.batches import Batch
from fxprune.passes.masked import private
from fxprune.passes.slim import origins_of


class Frames:
    """One graph, executed node by node over all batches.

    Attributes:
        values: for each batch, the value of every node that is still needed.
    """

    def __init__(self, module: GraphModule, batches: Sequence[Batch]) -> None:
        """Begin before the first node."""
        self._run = Interpreter(module, garbage_collect_values=False)
        self._inputs = [iter(flat_inputs(batch)) for batch in batches]
        self._last = _last_uses(module)
        self.values: list[dict[Node, Any]] = [{} for _ in batches]

    def step(self, node: Node) -> None:
        """Execute one node for every batch; values that nothing needs after it are freed by `free`."""
        for values, inputs in zip(self.values, self._inputs, strict=True):
            values[node] = self._execute(node, values, inputs)

    def again(self, node: Node) -> None:
        """Execute a node anew, after its parameters have changed."""
        self.step(node)

    def free(self, node: Node) -> None:
        """Forget what no node after this one reads."""
        for values in self.values:
            for each in self._last[node]:
                values.pop(each, None)

    def _execute(self, node: Node, values: dict[Node, Any], inputs: Any) -> Any:
        if node.op == "placeholder":
            return next(inputs)
        if node.op == "get_attr":
            return private(self._run.fetch_attr(str(node.target)))
        args, kwargs = map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        if node.op == "call_module":
            return self._run.fetch_attr(str(node.target))(*args, **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def flat_inputs(batch: Batch) -> list[Any]:
    """Inputs in the order of a captured graph's placeholders; copies, which a run may write to."""
    return [private(each) for each in tree_leaves((batch.args, batch.kwargs))]


def _last_uses(module: GraphModule) -> dict[Node, list[Node]]:
    """Node -> the values that nothing reads after it."""
    last: dict[Node, Node] = {}
    for node in module.graph.nodes:
        last[node] = node
        last.update(dict.fromkeys(node.all_input_nodes, node))
    found: dict[Node, list[Node]] = defaultdict(list)
    for value, user in last.items():
        found[user].append(value)
    return found


class Lockstep:
    """Two graphs, the second emitted from the first (`node.meta["origin"]`).

    Attributes:
        original: values of the original graph.
        slim: values of the slim graph.
        copies: node of the original graph -> what has its value in the slim one.
    """

    def __init__(self, original: GraphModule, slim: GraphModule, batches: Sequence[Batch]) -> None:
        """Begin before the first node."""
        self.original, self.slim = Frames(original, batches), Frames(slim, batches)
        self._pending = iter(original.graph.nodes)
        self._nodes = list(slim.graph.nodes)
        self.copies: dict[Node, Node] = {origin: node for node in self._nodes for origin in origins_of(node)}

    def __iter__(self) -> Any:
        """Pairs of a node of the original and its copy, both executed; what is not needed later is freed afterwards."""
        for node in self._nodes:
            if node.op == "output":
                return
            origin = node.meta.get("origin")
            if origin is not None:
                self._advance(origin)
            self.slim.step(node)
            if origin is not None:
                yield origin, node
                self.original.free(origin)
            self.slim.free(node)

    def _advance(self, goal: Node) -> None:
        """Execute the original graph up to a node."""
        for node in self._pending:
            self.original.step(node)
            if node is goal:
                return
            self.original.free(node)
        msg = f"{goal.name} is not ahead in the original graph"
        raise AssertionError(msg)
