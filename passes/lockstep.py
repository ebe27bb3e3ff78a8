"""The original and the slim model side by side: both graphs, node by node, over all calibration batches at once.

Layer after layer, everything that the slim model computes is known together with what the original computes there, so that
one pass suffices to repair every layer on the inputs that repaired layers before it give. Each batch has an environment of
values for each graph; a value is freed after its last use, so that memory is bounded by what one batch needs at the widest
place of the network, times the number of batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from fxprune.aliasing import aliases, written
from fxprune.batches import Batch
from fxprune.blocks import Block, outermost
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

    def free(self, node: Node, keep: AbstractSet[Node] = frozenset()) -> None:
        """Forget what no node after this one reads, but for some."""
        for values in self.values:
            for each in self._last[node]:
                if each not in keep:
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
    """Two graphs, the second emitted from the first (`node.meta["origin"]`), or from the first without some blocks.

    Attributes:
        original: values of the original graph.
        slim: values of the slim graph.
        copies: node of the graph that the slim one was emitted from -> what has its value in the slim one.
    """

    def __init__(
        self, original: GraphModule, slim: GraphModule, batches: Sequence[Batch], dropped: Sequence[Block] = ()
    ) -> None:
        """Begin before the first node; `dropped` are blocks of the original that the slim model lacks."""
        self.original, self.slim = Frames(original, batches), Frames(slim, batches)
        self._nodes, self._dropped = list(slim.graph.nodes), outermost(dropped)
        self._ahead = list(original.graph.nodes)
        self._order = {node: at for at, node in enumerate(self._ahead)}
        self._named: dict[str, Node] = {node.name: node for node in self._ahead}
        self._done = self._freed = 0
        self.copies: dict[Node, Node] = {origin: node for node in self._nodes for origin in origins_of(node)}
        self._shared = {self._named[each.name] for each in self.copies if each.name in self._named}
        read = {operand for node in self._shared for operand in node.all_input_nodes}
        self._compared = self._shared | read | {block.output for block in self._dropped}

    def twin(self, origin: Node) -> Node:
        """What a node of the graph that the slim one was emitted from is in the original: it has the same name there."""
        return self._named[origin.name]

    def is_earlier(self, first: Node, second: Node) -> bool:
        """Whether the original computes one node before another."""
        return self._order[first] < self._order[second]

    def stand_in(self, origin: Node) -> Node | None:
        """What the slim model's readers of a value read in the original, if that is what a dropped block put out.

        The original runs ahead to it. None where others read the value as well, or where values that are still to be
        compared with would be written to on the way.
        """
        twin = found = self.twin(origin)
        while (block := self._entered(found)) is not None:
            found = block.output
        way = self._ahead[self._done : self._order[found] + 1]
        if found is twin or any(self._overwrites(node) for node in way):
            return None
        self._advance(found)
        return found

    def _overwrites(self, node: Node) -> bool:
        """Whether an operation writes to what an earlier one gave and what may still be compared with."""
        reached = {each for value in written(node) for each in aliases(value)} & self._compared
        return any(self.is_earlier(each, node) for each in reached)

    def _entered(self, node: Node) -> Block | None:
        """The dropped block that is all that reads a value."""
        entered = (block for block in self._dropped if block.input is node)
        return next((block for block in entered if set(node.users) <= set(block.nodes)), None)

    def __iter__(self) -> Any:
        """Pairs of a node of the original and its copy, both executed; what is not needed later is freed afterwards."""
        for node in self._nodes:
            if node.op == "output":
                return
            origin = node.meta.get("origin")
            twin = None if origin is None else self._named.get(origin.name)
            if twin is not None:
                self._advance(twin)
            self.slim.step(node)
            if twin is not None:
                yield origin, node
                self._release(twin)
            self.slim.free(node)

    def _advance(self, goal: Node) -> None:
        """Execute the original graph up to a node, if it has not come to it yet."""
        assert self._order[goal] >= self._freed, f"{goal.name} has been left behind"
        for node in self._ahead[self._done : self._order[goal] + 1]:
            self.original.step(node)
            if node not in self._shared:
                self.original.free(node, keep=self._compared)
        self._done = max(self._done, self._order[goal] + 1)

    def _release(self, reached: Node) -> None:
        """Free what the original's nodes up to one were the last to read."""
        for node in self._ahead[self._freed : self._order[reached] + 1]:
            self.original.free(node)
        self._freed = self._order[reached] + 1
