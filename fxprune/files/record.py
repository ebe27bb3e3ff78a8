"""What the user's own class, slimmed, remembers of its making, so that it can be saved.

`apply` and `restore` leave a `Record` on the copy that they make: what a file of it holds beside the weights, as texts and
bytes. It is a plain attribute of that instance, so that `copy.deepcopy` and `pickle` take it along, and neither the state
dict nor anything that walks modules, tensors or numbers of the model sees it. Parameter names of the class and of the graph
form are the same, so that a file of the class has the graph too, with the class's weights.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import CheckpointError
from fxprune.files.content import WEIGHTS, Content
from fxprune.files.examples import declared_examples
from fxprune.files.state import StateEntry, decode_state, encode_state, named_tensors, restore_tensors, transient_names
from fxprune.files.tensors import read_tensors, write_tensors

_ATTRIBUTE = "_fxprune_record"


@dataclass(frozen=True, slots=True)
class Record:
    """A file without its weights.

    Attributes:
        plan: JSON text.
        graph: JSON text of `graph.json`.
        report: JSON text, or None.
        scores: the bytes of a scores file, or None.
        inputs: tensors among the example inputs, as safetensors.
        constants: tensors of the graph that the class does not have, likewise.
    """

    plan: str
    graph: str
    report: str | None
    scores: bytes | None
    inputs: bytes
    constants: bytes


def record_of(model: nn.Module) -> Record | None:
    """What a model remembers; None if it was not made by `apply` or `restore`.

    Raises:
        CheckpointError: it was, but cannot be saved.
    """
    found = model.__dict__.get(_ATTRIBUTE)
    if isinstance(found, str):
        raise CheckpointError(f"this {type(model).__name__} cannot be saved: {found}")
    return found if isinstance(found, Record) else None


def remember(model: nn.Module, content: Content) -> None:
    """Have a model that was cut as the content says remember it."""
    own = named_tensors(model)
    constants = {name: tensor for name, tensor in content.tensors.items() if name not in own}
    graph = json.dumps(content.graph, allow_nan=False)
    packed = Record(content.plan, graph, content.report, content.scores, _packed(content.inputs), _packed(constants))
    model.__dict__[_ATTRIBUTE] = packed


def refuse(model: nn.Module, reason: str) -> None:
    """Have a model remember why it cannot be saved."""
    model.__dict__[_ATTRIBUTE] = reason


def content_of_own(model: nn.Module, record: Record, *, scores: bool, example_inputs: bool) -> Content:
    """What a file of the user's own class holds: what it remembers, with the weights that it has now.

    Raises:
        CheckpointError: the model no longer has the tensors that its plan speaks of, or has others.
    """
    graph: dict[str, Any] = json.loads(record.graph)
    known = {entry.name: entry for entry in decode_state(graph["tensors"])}
    constants = _constants(record, graph["tensors"])
    own = named_tensors(model)
    _check(type(model).__name__, own, known, constants)
    types = _conversion(own, known)  # constants follow, as buffers do
    constants = {name: each.to(types.get(each.dtype, each.dtype)) for name, each in constants.items()}
    named = {name: own[name] if name in own else constants[name] for name in known}
    lost = [name for name, entry in known.items() if entry.kind == "transient"]
    state = encode_state(named, [*lost, *transient_names(model)])
    examples = graph["inputs"] if example_inputs else None
    modules = dict(model.named_modules(remove_duplicate=False))
    return Content(
        plan=record.plan,
        graph={
            **graph,
            "tensors": state,
            "modules": [_trained(entry, modules) for entry in graph["modules"]],
            "inputs": examples,
        },
        report=record.report,
        scores=record.scores if scores else None,
        inputs={} if examples is None else _unpacked(record.inputs, declared_examples(examples)),
        tensors={entry["name"]: named[entry["name"]] for entry in state if "same_as" not in entry},
    )


def _check(kind: str, own: Mapping[str, Tensor], known: Mapping[str, Any], constants: Mapping[str, Tensor]) -> None:
    missing = [name for name in known if name not in own and name not in constants]
    extra = [name for name in own if name not in known]
    if missing or extra:
        what = f"no longer has {missing[0]}" if missing else f"has {extra[0]}, which the plan does not know"
        raise CheckpointError(f"this {kind} {what}: save it as apply or restore made it, or save its state dict")
    for name, entry in known.items():
        shape = (known[entry.same_as] if entry.same_as else entry).declared.shape
        if name in own and tuple(own[name].shape) != shape and entry.kind != "transient":
            raise CheckpointError(
                f"{name} of this {kind} has shape {list(own[name].shape)}, its plan says {list(shape)}"
            )


def _trained(entry: dict[str, Any], modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """A module's entry with the training flag of the class's module of that name."""
    own = modules.get(entry["path"])
    return entry if own is None or "same_as" in entry else {**entry, "training": own.training}


def _conversion(own: Mapping[str, Tensor], known: Mapping[str, StateEntry]) -> dict[torch.dtype, torch.dtype]:
    """The type that all parameters had -> the one that they have been converted to since; empty where that is no one."""
    parameters = {n: t for n, t in own.items() if isinstance(t, nn.Parameter) and t.is_floating_point()}
    declared = [known[name].declared for name in parameters]
    before, now = {each.dtype for each in declared if each is not None}, {each.dtype for each in parameters.values()}
    return dict(zip(before, now, strict=True)) if len(before) == len(now) == 1 else {}


def _constants(record: Record, described: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The graph's constants, by all their names."""
    header = json.loads(record.constants[8 : 8 + int.from_bytes(record.constants[:8], "little")])
    entries = [
        entry for entry in decode_state(described) if entry.name in header or (entry.same_as or entry.name) in header
    ]
    read = _unpacked(record.constants, [entry.declared for entry in entries if entry.declared is not None])
    return restore_tensors(entries, read, torch.device("cpu"))


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    write_tensors(buffer, tensors)
    return buffer.getvalue()


def _unpacked(content: bytes, declared: Any) -> dict[str, Tensor]:
    return read_tensors(io.BytesIO(content), len(content), declared, WEIGHTS)
