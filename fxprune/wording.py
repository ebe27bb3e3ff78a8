"""The Python code of a slim module, worded as one would write it by hand.

`torch.fx` writes every operation of a graph as a call of its overload, looks every module up from the root, attribute by
attribute (`getattr(self.encoder.layer, "0").attention.self.query`), each of them by a function of `nn.Module`, and takes
arguments apart by a tree structure. In small models that is a tenth of the time. So the code is
written from a copy of the graph:

    the_0 = in_encoder_layer['0']
    in_encoder_layer_0 = the_0._modules
    ...
    the_query = in_encoder_layer_0_attention_self['query']
    encoder_layer_0_attention_self_query = the_query(embeddings_dropout)
    view = encoder_layer_0_attention_self_query.reshape([sym_size_int_13, sym_size_int_14, -1, 64])

- Operations are called by PyTorch's own methods and functions (`fxprune.callables`).
- A module that holds others is looked up once, in the dictionary that `nn.Module` keeps of its children. Nothing is remembered
  between calls, so that a module that somebody replaces is found; parameters are read as attributes, which parametrisations need.
- Arguments that have no structure are taken as they are.

The graph itself is not touched: what is saved, exported, interpreted or edited speaks of overloads and paths.
"""

from __future__ import annotations

import builtins
import copy
import operator
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import PythonCode
from torch.utils import _pytree as pytree

from fxprune.callables import call_publicly

_VERBATIM: ContextVar[bool] = ContextVar("_VERBATIM", default=False)
"""Whether code is to be written as `torch.fx` does."""
_CALL = re.compile(r"^(\w+ = \w+)\.__call__\(")


class WordedModule(GraphModule):
    """A graph module with the faster code."""

    def recompile(self) -> PythonCode:
        """Write the code anew, after the graph was edited."""
        if _VERBATIM.get():
            return super().recompile()
        graph, wording = self._graph, reword(self._graph)
        info = getattr(graph._codegen, "pytree_info", None)
        if info is not None:
            self._in_spec, self._out_spec = info.in_spec, info.out_spec
        self._graph = wording.graph
        try:
            code = super().recompile()
        finally:
            self._graph = graph
        # By line, the node that it is for: PyTorch's compiler looks up what is known of it.
        lines = code._lineno_map or {}
        self._lineno_map = {line: None if at is None else wording.origins[at] for line, at in lines.items()}
        return code

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle holds: code in the words of the graph, which is traced from it when it is read."""
        token = _VERBATIM.set(True)
        try:
            self.recompile()
            reduced: tuple[Any, ...] = super().__reduce__()
        finally:
            _VERBATIM.reset(token)
            self.recompile()
        return reduced


@dataclass(frozen=True, slots=True)
class Wording:
    """A graph to write code from.

    Attributes:
        graph: computes what the original does, from the same arguments.
        origins: for each of its nodes, the position of the original's node that it is for.
    """

    graph: Graph
    origins: tuple[int, ...]


def reword(graph: Graph) -> Wording:
    """A copy of a graph for `torch.fx` to write code from; the graph itself is not changed."""
    plain = _plain_arguments(graph)
    arguments = plain or [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    names = dict(zip(arguments, _names_within(arguments), strict=True))
    left, writer = iter(arguments), _Writer()
    if plain is None:
        writer.graph.set_codegen(copy.copy(graph._codegen))
    # Arguments come first, as in the code: what is named before them must not have the name of one, which would replace it.
    for number, node in sorted(enumerate(graph.nodes), key=lambda each: each[1].op != "placeholder"):
        if node.op == "placeholder":
            argument = next(left)
            writer.take(node, argument, names[argument])
        elif node.op == "output" and plain is not None:
            writer.give(node)
        else:
            writer.copy(node)
        writer.origins += [number] * (len(writer.graph.nodes) - len(writer.origins))
    writer.graph.on_generate_code(lambda _: _calling(graph._codegen._body_transformer))
    return Wording(writer.graph, tuple(writer.origins))


def _plain_arguments(graph: Graph) -> list[str] | None:
    """Names of the arguments where each of them is one input; None where they have a structure, or the graph knows of none."""
    info: Any = getattr(graph._codegen, "pytree_info", None)
    if info is None or info.in_spec is None or info.out_spec is None:
        return None
    parts = info.in_spec.children()
    inputs = [each for part in parts for each in part.children()]
    plain = [part.type for part in parts] == [tuple, dict] and all(each.is_leaf() for each in inputs)
    return [str(name) for name in info.orig_args] if plain and len(info.orig_args) == len(inputs) else None


def _names_within(arguments: Sequence[str]) -> list[str]:
    """What arguments are called in the code.

    `torch.fx` renames those that are called like something of Python's, one after the other, `input` to `input_1`, whether
    or not that is another argument, whose value is then lost; such ones are given other names.
    """
    clash = any(re.fullmatch(rf"{one}_\d+", other) for one in arguments for other in arguments)
    prefix = "given_" if clash else ""
    while clash and any(name.startswith(prefix) for name in arguments):
        prefix += "_"
    return [prefix + name for name in arguments]


def _calling(former: Callable[[list[str]], list[str]] | None) -> Callable[[list[str]], list[str]]:
    """Write calls of modules as calls: a graph can only say `x.__call__(y)`, which PyTorch's compiler follows less readily."""

    def transform(body: list[str]) -> list[str]:
        return [_CALL.sub(r"\1(", line) for line in (body if former is None else former(body))]

    return transform


@dataclass(slots=True)
class _Writer:
    """A copy in the making.

    Attributes:
        graph: what has been copied.
        origins: as of `Wording`.
        copies: by original node.
        children: by a module's path, the node that yields its dictionary of modules.
    """

    graph: Graph = field(default_factory=Graph)
    origins: list[int] = field(default_factory=list)
    copies: dict[Node, Node] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def take(self, node: Node, argument: str, name: str) -> None:
        """Add an input."""
        self.copies[node] = self.graph.create_node("placeholder", argument, node.args, name=name)

    def give(self, node: Node) -> None:
        """Add the output of a graph that knows its structure."""
        structure = self.graph.create_node("get_attr", "_out_spec", name="structure")
        leaves = torch.fx.node.map_arg(node.args[0], self.copies.__getitem__)
        self.graph.output(self._new(pytree.tree_unflatten, (leaves, structure), "outputs"))

    def copy(self, node: Node) -> None:
        """Add what stands for the original's next node."""
        if node.op == "call_module":
            module = self._module(str(node.target))
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self.copies.__getitem__)
            self.copies[node] = self.graph.create_node("call_method", "__call__", (module, *args), kwargs, node.name)
        elif node.op == "get_attr" and "." in str(node.target):
            owner, _, name = str(node.target).rpartition(".")
            self.copies[node] = self._new(builtins.getattr, (self._module(owner), name), node.name)
        else:
            copied = self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
            call_publicly(copied, node.users)

    def _module(self, path: str) -> Node:
        owner, _, name = path.rpartition(".")
        return self._new(operator.getitem, (self._children(owner), name), f"the_{name}")

    def _children(self, path: str) -> Node:
        """The modules of a module by name, looked up where they are needed first."""
        if path not in self.children:
            self.children[path] = (
                self._new(builtins.getattr, (self._module(path), "_modules"), f"in_{path.replace('.', '_')}")
                if path
                else self.graph.create_node("get_attr", "_modules", name="in_root")
            )
        return self.children[path]

    def _new(self, function: Callable[..., Any], args: tuple[Any, ...], name: str) -> Node:
        return self.graph.create_node("call_function", function, args, name=name)
