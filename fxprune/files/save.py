"""`save`: a slim model as one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.errors import CheckpointError, InputError
from fxprune.files.archive import adding, writing
from fxprune.files.content import GRAPH, INPUTS, LONGEST_GRAPH, PLAN, REPORT, SCHEMA, SCORES, WEIGHTS, Content
from fxprune.files.examples import encode_examples
from fxprune.files.graph import decode_graph, encode_graph
from fxprune.files.modules import decode_modules, encode_modules
from fxprune.files.names import is_identifier
from fxprune.files.record import content_of_own, record_of
from fxprune.files.state import decode_state, encode_state, named_tensors, transient_names
from fxprune.files.structure import encode_structure
from fxprune.files.tensors import write_tensors
from fxprune.plan import LONGEST
from fxprune.scores_file import scores_to_bytes
from fxprune.slim_module import SlimModule


def save(model: nn.Module, path: str | PathLike[str], *, scores: bool = True, example_inputs: bool = True) -> None:
    """Write a slim model to one file, which appears whole or not at all.

    The file holds the plan, the weights as they are now, the graph, the report and, where there are some, scores and
    example inputs. No part of it can be executed; see docs/files.md for the format.

    Args:
        model: a slim module (`compile`, `load`), or your own class, slimmed (`apply`, `restore`); as it is now: after
            fine-tuning, in another dtype, on another device.
        path: the file, such as "slim.fxprune". One that is there is replaced in the end.
        scores: whether to keep the scores (`slim.scores`), which other budgets can be made from.
        example_inputs: whether to keep the example inputs, which `lower`, `bench` and `restore` use where they are given
            none. Leave them out where they are nobody else's business.

    Raises:
        InputError: `model` is neither.
        CheckpointError: the file cannot be written (a full disk, say), and what was at `path` is still there; or `model`
            has something that files cannot hold, and it says what.

    Example:
        >>> import os, tempfile, torch, fxprune
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
        >>> slim = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8))
        >>> path = os.path.join(tempfile.mkdtemp(), "slim.fxprune")
        >>> fxprune.save(slim, path)
        >>> fxprune.load(path)(torch.randn(5, 8)).shape, fxprune.restore(model, path)[0].out_features
        (torch.Size([5, 4]), 32)
    """
    content = _content(model, scores=scores, example_inputs=example_inputs)
    graph = json.dumps(content.graph, separators=(",", ":"), allow_nan=False)
    for name, text, longest in ((PLAN, content.plan, LONGEST), (GRAPH, graph, LONGEST_GRAPH)):
        if len(text) > longest:
            raise CheckpointError(f"{name} would have {len(text):,} characters; it may have {longest:,}")
    texts = {PLAN: content.plan, GRAPH: graph, REPORT: content.report, SCORES: content.scores}
    path = Path(path)
    needed = sum(len(each) for each in texts.values() if each is not None)
    needed += sum(tensor.nbytes for tensors in (content.inputs, content.tensors) for tensor in tensors.values())
    with writing(path, "the model", needed) as archive:
        for name, each in texts.items():
            if each is not None:
                with adding(archive, name) as sink:
                    sink.write(each if isinstance(each, bytes) else each.encode())
        for name, tensors in ((INPUTS, content.inputs), (WEIGHTS, content.tensors)):
            if tensors or name == WEIGHTS:
                with adding(archive, name) as sink:
                    write_tensors(sink, tensors)


def _content(model: nn.Module, *, scores: bool, example_inputs: bool) -> Content:
    if isinstance(model, SlimModule):
        return content_of_slim(model, scores=scores, example_inputs=example_inputs)
    record = record_of(model)
    if record is None:
        msg = (
            f"save takes a slim module (from compile or load), or a model that apply or restore made; this "
            f"{type(model).__name__} is neither. Of a wrapped one (DistributedDataParallel, torch.compile), save what is inside"
        )
        raise InputError(msg)
    return content_of_own(model, record, scores=scores, example_inputs=example_inputs)


def content_of_slim(slim: SlimModule, *, scores: bool = True, example_inputs: bool = True) -> Content:
    """What a file of this slim module holds.

    Raises:
        CheckpointError: it has something that files cannot hold.
    """
    made = slim._provenance
    examples, inputs = _examples(slim) if example_inputs and made.example_inputs is not None else (None, {})
    named = named_tensors(slim)
    state = encode_state(named, transient_names(slim))
    name = type(slim).__name__
    graph = {
        "schema": SCHEMA,
        "class": name if is_identifier(name) else "SlimModule",
        "modules": encode_modules(slim, made.specs),
        "tensors": state,
        "nodes": encode_graph(slim.graph),
        "signature": _signature(slim),
        "inputs": examples,
    }
    _check(graph)
    return Content(
        plan=made.plan.to_json(),
        graph=graph,
        report=None if made.report is None else made.report.to_json(),
        scores=scores_to_bytes(made.scores) if scores and made.scores is not None else None,
        inputs=inputs,
        tensors=stored_tensors(named, state),
    )


def _check(graph: Mapping[str, Any]) -> None:
    """Whether what is going to be written can be read: limits and names are the reader's."""
    modules, state = decode_modules(graph["modules"]), decode_state(graph["tensors"])
    decode_graph(graph["nodes"], {entry.path for entry in modules if entry.spec}, {entry.name for entry in state})


def stored_tensors(named: Mapping[str, Tensor], state: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The tensors whose numbers a file holds: each tied one once."""
    return {entry["name"]: named[entry["name"]] for entry in state if "same_as" not in entry}


def _examples(slim: SlimModule) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        return encode_examples(slim.example_inputs)
    except CheckpointError as error:
        msg = f"the example inputs cannot be saved: {error}; leave them out with example_inputs=False"
        raise CheckpointError(msg) from error


def _signature(slim: GraphModule) -> dict[str, Any] | None:
    """Names and nesting of arguments and outputs, where they are not plain."""
    info = getattr(slim.graph._codegen, "pytree_info", None)
    if info is None:
        return None
    assert slim._in_spec is not None
    assert slim._out_spec is not None
    return {
        "arguments": list(info.orig_args),
        "inputs": encode_structure(slim._in_spec),
        "outputs": encode_structure(slim._out_spec),
    }
