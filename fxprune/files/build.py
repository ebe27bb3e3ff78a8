"""A slim module from what a file says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils._pytree import TreeSpec

from fxprune.errors import CheckpointError
from fxprune.files.graph import decode_graph
from fxprune.files.modules import ModuleEntry, build_tree, decode_modules
from fxprune.files.names import identifier
from fxprune.files.state import StateEntry, named_tensors
from fxprune.files.structure import decode_structure
from fxprune.safe_json import array, fields
from fxprune.slim_module import SlimModule, adopt, set_tensor


def build_module(
    data: Mapping[str, Any], state: Sequence[StateEntry], tensors: Mapping[str, Tensor], device: torch.device
) -> tuple[SlimModule, list[ModuleEntry]]:
    """The module that `graph.json` describes.

    Args:
        data: its fields.
        state: the parameters and buffers that it lists.
        tensors: those, by all names.
        device: where the constants of the graph are to be made.

    Returns:
        The module, and what is said of its modules.

    Raises:
        CheckpointError: the parts do not fit together.
    """
    entries = decode_modules(data["modules"])
    root = build_tree(entries)
    _check_tensors(root, state)
    for each in state:
        _set(root, each, tensors[each.name])
    paths = {entry.path for entry in entries if entry.spec is not None}
    graph = decode_graph(data["nodes"], paths, tensors.keys())
    _move(graph, device)
    module = SlimModule(root, graph, class_name=identifier(data["class"], "the name of the class"))
    _adopt(module, root)
    _give_signature(module, data["signature"])
    for entry in entries:
        if entry.same_as is None:
            module.get_submodule(entry.path).training = entry.training
    return module, entries


def _check_tensors(root: nn.Module, state: Iterable[StateEntry]) -> None:
    """Whether `torch.nn` modules are given exactly the tensors that they have."""
    wanted, given = named_tensors(root), {entry.name: entry for entry in state}
    known = {name: entry.declared or given[entry.same_as or ""].declared for name, entry in given.items()}
    for name, tensor in wanted.items():
        found = known.get(name)
        if found is None or found.shape != tensor.shape:
            have = "lacks it" if found is None else f"has {list(found.shape)}"
            raise CheckpointError(f"its module wants {name} of shape {list(tensor.shape)}, the file {have}")
    for name, entry in given.items():
        owner, _, _ = name.rpartition(".")
        module = _owner(root, owner, name)
        if type(module) is not nn.Module and name not in wanted:
            raise CheckpointError(f"the {type(module).__name__} {owner} has no {name}")
        if name in wanted and isinstance(wanted[name], nn.Parameter) != (entry.kind == "parameter"):
            raise CheckpointError(f"{name} is a parameter where the module has a buffer, or the reverse")


def _owner(root: nn.Module, owner: str, name: str) -> nn.Module:
    try:
        return root.get_submodule(owner)
    except AttributeError:
        raise CheckpointError(f"the tensor {name} belongs to a module that is not there") from None


def _set(root: nn.Module, entry: StateEntry, tensor: Tensor) -> None:
    try:
        set_tensor(root, entry.name, tensor, persistent=entry.kind != "transient")
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the tensor {entry.name} cannot be there: {error}") from error


def _adopt(module: SlimModule, root: nn.Module) -> None:
    """Take over the tree, whose names must not be those that the module has for itself."""
    taken = [
        name
        for name in (*root._modules, *root._parameters, *root._buffers)
        if hasattr(SlimModule, name) or name in {*module.__dict__, "_in_spec", "_out_spec"}
    ]
    if taken:
        raise CheckpointError(f"a module or tensor is named {taken[0]!r}, a name that slim modules use")
    adopt(module, root)


def _move(graph: Graph, device: torch.device) -> None:
    """Where the graph makes all its constants on one device, they are made on this one instead."""
    found = set[torch.device]()

    def note(value: Any) -> Any:
        if isinstance(value, torch.device):
            found.add(value)
        return value

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        _map(node, note)
    if len(found) == 1 and found != {device}:
        for node in graph.nodes:
            _map(node, moved)


def _map(node: Node, change: Any) -> None:
    args = torch.fx.node.map_aggregate(node.args, change)
    kwargs = torch.fx.node.map_aggregate(node.kwargs, change)
    node.args, node.kwargs = args, kwargs


def _give_signature(module: SlimModule, value: object) -> None:
    """Arguments and outputs: plain ones, or nested as a structure says."""
    graph = module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if value is None:
        _check_distinct([str(node.target) for node in inputs])
    else:
        given = fields(value, "the signature", ("arguments", "inputs", "outputs"))
        arguments = [
            identifier(each, "an argument") for each in array(given["arguments"], "the arguments", most=10_000)
        ]
        taken, returned = (decode_structure(given[part], f"the {part}") for part in ("inputs", "outputs"))
        _check_inputs(taken, arguments, len(inputs))
        _check_outputs(graph, returned)
        graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(arguments, taken, returned)))
        module._in_spec, module._out_spec = taken, returned
    try:
        module.recompile()
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"the graph cannot be run: {error}") from error


def _check_distinct(arguments: Sequence[str]) -> None:
    if len(set(arguments)) < len(arguments):
        raise CheckpointError("two arguments have the same name")


def _check_inputs(spec: TreeSpec, arguments: Sequence[str], count: int) -> None:
    """Positional and keyword arguments, as many as there are names, with as many values as the graph has inputs."""
    _check_distinct(arguments)
    fitting = spec.type is tuple and [child.type for child in spec.children()] == [tuple, dict]
    if not fitting or spec.num_leaves != count:
        raise CheckpointError("the inputs are no positional and keyword arguments of the graph")
    positional, keyword = spec.children()
    for key in keyword.context:
        identifier(key, "a keyword argument")
    if positional.num_children + keyword.num_children != len(arguments):
        raise CheckpointError("there are more or fewer arguments than names for them")


def _check_outputs(graph: Graph, spec: TreeSpec) -> None:
    output = next(iter(reversed(graph.nodes)))
    returned = output.args[0] if output.args else None
    if not isinstance(returned, list | tuple) or len(returned) != spec.num_leaves:
        raise CheckpointError("the graph returns more or fewer values than its outputs have places")
