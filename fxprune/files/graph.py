"""A graph of `torch.fx` as JSON, and back: data, of which nothing is executed when it is read.

    {"op": "input", "name": "x", "target": "x"}
    {"op": "tensor", "name": "weight", "target": "layer.weight"}
    {"op": "module", "name": "conv1", "target": "conv1", "args": [{"node": 0}]}
    {"op": "call", "name": "add", "target": "aten::add.Tensor", "args": [..], "kwargs": {"alpha": 2}}
    {"op": "output", "args": [..]}

Nodes speak of nodes before them by number. Functions are looked up (`fxprune.files.targets`), their arguments counted and
named as the operation's schema says; modules and tensors have to be those of the file.

A loaded graph runs as `torch.fx` code, like one that `compile` makes, since that trains, exports and compiles at full speed,
which an interpreter would not. That code consists of names and arguments from the file, so names are plain identifiers
(`fxprune.files.names`), and arguments numbers, tables' entries and texts, which are written as literals.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch._ops import OpOverload
from torch.fx import Graph, Node

from fxprune.errors import CheckpointError
from fxprune.files.modules import MOST
from fxprune.files.names import identifier, is_identifier, is_path
from fxprune.files.targets import function_of, name_of
from fxprune.files.values import decode_value, encode_value
from fxprune.safe_json import array, fields, mapping, one_of, shown

_KINDS = {"placeholder": "input", "get_attr": "tensor", "call_module": "module", "call_function": "call"}


def encode_graph(graph: Graph) -> list[dict[str, Any]]:
    """The nodes of a graph, in order.

    Raises:
        CheckpointError: one is none that files can hold.
    """
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    return [_encode(node, numbers) for node in graph.nodes]


def _encode(node: Node, numbers: Mapping[Node, int]) -> dict[str, Any]:
    if node.op == "output":
        return {"op": "output", "args": encode_value(list(node.args), numbers)}
    name = node.name if is_identifier(node.name) else f"node_{numbers[node]}"
    said: dict[str, Any] = {"op": _KINDS[node.op], "name": name, "target": _target(node)}
    if node.op in ("placeholder", "get_attr"):
        if node.args or node.kwargs:
            raise CheckpointError(f"the input {node.target} has a default, which files cannot hold")
        return said
    said["args"] = encode_value(list(node.args), numbers)
    if node.kwargs:
        said["kwargs"] = {key: encode_value(value, numbers) for key, value in node.kwargs.items()}
    return said


def _target(node: Node) -> str:
    if node.op == "call_function":
        return name_of(node.target)
    target = str(node.target)
    if not (is_identifier(target) if node.op == "placeholder" else is_path(target)):
        raise CheckpointError(f"the graph holds {target!r}, a name that files cannot")
    return target


def decode_graph(value: object, modules: Collection[str], tensors: Collection[str]) -> Graph:
    """The graph that was encoded.

    Args:
        value: parsed JSON.
        modules: paths of the modules that it may call.
        tensors: names of the tensors that it may read.

    Raises:
        CheckpointError: it is none, or speaks of what is not there.
    """
    graph, made = Graph(), list[Node]()
    names = set[str]()
    entries = array(value, "the graph", most=MOST)
    for number, entry in enumerate(entries):
        told = f"node {number} of the graph"
        operation = one_of(mapping(entry, told).get("op"), f"the kind of {told}", [*_KINDS.values(), "output"])
        if (operation == "output") != (number == len(entries) - 1):
            raise CheckpointError("the graph's output is not its last node, and only that")
        node = _decode(graph, operation, entry, told, made, (modules, tensors))
        if node.name in names:
            raise CheckpointError(f"{told} has the name of another")
        names.add(node.name)
        made.append(node)
    if not made:
        raise CheckpointError("the graph is empty")
    return graph


def _decode(
    graph: Graph,
    operation: str,
    entry: dict[str, Any],
    told: str,
    made: list[Node],
    known: tuple[Collection[str], Collection[str]],
) -> Node:
    def resolve(number: int) -> Node:
        if number >= len(made):
            raise CheckpointError(f"{told} speaks of node {number}, which is not before it")
        return made[number]

    def decoded(name: str) -> tuple[Any, ...]:
        return tuple(decode_value(each, told, resolve) for each in array(entry[name], told, most=10_000))

    if operation == "output":
        fields(entry, told, ("op", "args"))
        return graph.create_node("output", "output", decoded("args"))
    leaf = operation in ("input", "tensor")
    fields(entry, told, ("op", "name", "target", *(() if leaf else ("args",))), () if leaf else ("kwargs",))
    name = identifier(entry["name"], f"the name of {told}")
    if operation == "input":
        return graph.create_node("placeholder", identifier(entry["target"], f"the argument of {told}"), name=name)
    if operation == "tensor":
        return graph.create_node("get_attr", one_of(entry["target"], f"the tensor of {told}", known[1]), name=name)
    args = decoded("args")
    kwargs = {
        identifier(key, told): decode_value(each, told, resolve)
        for key, each in mapping(entry.get("kwargs", {}), told).items()
    }
    if operation == "module":
        if len(args) != 1 or not isinstance(args[0], Node) or kwargs:
            raise CheckpointError(f"{told} calls a module with other arguments than one value")
        target = one_of(entry["target"], f"the module of {told}", known[0])
        return graph.create_node("call_module", target, args, name=name)
    function = function_of(entry["target"], told)
    _check_arguments(function, args, kwargs, told)
    return graph.create_node("call_function", function, args, kwargs, name=name)


def _check_arguments(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any], told: str) -> None:
    """As many positional arguments as there may be, and keywords that there are."""
    if isinstance(function, OpOverload):
        arguments = function._schema.arguments
        most, names = sum(not each.kwarg_only for each in arguments), {each.name for each in arguments}
    else:
        most, names = 3, set()
    if len(args) > most or not kwargs.keys() <= names:
        raise CheckpointError(f"{told} calls {shown(str(function))} with arguments that it does not take")
