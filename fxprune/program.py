"""A captured model: what `capture` returns and every later stage reads. Nothing in it is ever edited."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import TreeSpec


@dataclass(frozen=True, slots=True)
class Program:
    """One forward pass of a model as a graph of ATen operations.

    Attributes:
        graph_module: `placeholder` nodes are the user's inputs, `get_attr` nodes parameters, buffers and folded
            constants by their dotted names, everything else `call_function` of ATen overloads. `node.meta` holds
            `val` (a fake tensor, or a symbolic size), `nn_module_stack` and `stack_trace`.
        tensors: every parameter and buffer of the model by name; the model's own tensors, not copies.
        buffers: names of those that are buffers.
        transient: names of the buffers that are not part of the state dict.
        constants: folded constants, which belong to no module, and the graphs of regions that could not be inlined.
        aliases: name of each tied tensor -> the name that stands for all of them.
        module_types: class of each module of the model by its path.
        module_aliases: path of each module that has several -> the path that comes first.
        training: each module's own training flag by its path.
        lost_dropout: attention modules whose dropout evaluation does not show, so that the graph has none.
        momentum: momentum of each BatchNorm by its path (eval mode hides a cumulative one).
        args: positional example inputs, as the user gave them.
        kwargs: keyword example inputs, likewise.
        traced: the flat inputs that the graph's size hints speak of: the example inputs, repeated if their batch size
            was 1.
        in_spec: structure of (args, kwargs).
        out_spec: structure of the output.
        dynamic_batch: whether the batch size is free in the graph.
        notes: what the user should know about the capture.
        root: class of the model.
        cached: values that a key/value cache holds, by the names of their nodes -> bytes that it holds of each; None where
            no cache is counted (`fxprune.kv_cache`).
    """

    graph_module: GraphModule
    tensors: Mapping[str, Tensor]
    buffers: frozenset[str]
    transient: frozenset[str]
    constants: Mapping[str, Tensor | nn.Module]
    aliases: Mapping[str, str]
    module_types: Mapping[str, type]
    module_aliases: Mapping[str, str]
    training: Mapping[str, bool]
    lost_dropout: tuple[str, ...]
    momentum: Mapping[str, float | None]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    traced: tuple[Any, ...]
    in_spec: TreeSpec
    out_spec: TreeSpec
    dynamic_batch: bool
    notes: tuple[str, ...]
    root: type
    cached: Mapping[str, int] | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in order of execution."""
        return tuple(self.graph_module.graph.nodes)

    def tensor(self, name: str) -> Tensor | None:
        """Parameter, buffer or folded constant of that name; None for the graph of a region."""
        found = self.constants[name] if name in self.constants else self.tensors[name]
        return found if isinstance(found, Tensor) else None

    def canonical(self, name: str) -> str:
        """The name that stands for all names of a tied tensor."""
        return self.aliases.get(name, name)

    def reached(self) -> frozenset[str]:
        """Canonical names of the parameters and buffers that the captured forward reads."""
        return frozenset(
            self.canonical(str(node.target))
            for node in self.graph_module.graph.nodes
            if node.op == "get_attr" and node.target not in self.constants
        )


def later_names(targets: Mapping[str, Hashable]) -> dict[str, str]:
    """Names that are not the first of what they stand for -> the first.

    Args:
        targets: what each name stands for, in the order that counts.
    """
    first: dict[Hashable, str] = {}
    found = {name: first.setdefault(target, name) for name, target in targets.items()}
    return {name: earlier for name, earlier in found.items() if name != earlier}
