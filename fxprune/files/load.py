"""`load`: a slim module from its file, without the original's source."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxprune.errors import CheckpointError, InputError
from fxprune.exclusive import exclusive
from fxprune.files.archive import Archive, reading
from fxprune.files.build import build_module
from fxprune.files.content import (
    GRAPH,
    GRAPH_FIELDS,
    INPUTS,
    LONGEST_GRAPH,
    MEMBERS,
    PLAN,
    REPORT,
    SCHEMA,
    SCORES,
    WEIGHTS,
)
from fxprune.files.examples import declared_examples, decode_examples
from fxprune.files.fitting import check_fit
from fxprune.files.state import StateEntry, decode_state, restore_tensors
from fxprune.files.tensors import Declared, read_tensors
from fxprune.inputs import Inputs
from fxprune.plan import LONGEST, Plan
from fxprune.report import LONGEST as LONGEST_REPORT
from fxprune.report import Report
from fxprune.safe_json import fields, parse, upgraded
from fxprune.scores import Scores
from fxprune.scores_file import LONGEST as LONGEST_SCORES
from fxprune.scores_file import scores_from_bytes
from fxprune.slim_module import Provenance, SlimModule


def load(path: str | PathLike[str], *, device: str | torch.device = "cpu") -> SlimModule:
    """Read a slim module from the file that `save` wrote.

    The original's source is not needed. Files of strangers are safe to load: nothing in them is executed, no class or
    function is imported because they name it, and sizes are checked before they are believed.

    Args:
        path: the file.
        device: where weights and example inputs go.

    Returns:
        The module, in the training mode that it was saved in, with `.plan`, `.report`, `.scores` and `.example_inputs` as
        far as they were saved. On the device and with the threads that it was saved with, it computes the same to the last
        bit. Where the model returned an object of a class that cannot be had here, it returns an
        `fxprune.files.outputs.Output` with the same fields.

    Raises:
        CheckpointError: there is no such file, it is damaged or hostile, or it is of a newer version; says what is wrong.
        InputError: there is no such device.
    """
    device = _usable(device)
    with reading(Path(path), MEMBERS) as archive:
        return _load(archive, device)


def _usable(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        msg = f"device={device!r} cannot be used: {str(error).splitlines()[0]}"
        raise InputError(msg) from error


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is read before the module is built."""

    plan: Plan
    report: Report | None
    scores: Scores | None
    inputs: Inputs | None


@exclusive
def _load(archive: Archive, device: torch.device) -> SlimModule:
    plan = Plan.from_json(archive.read(PLAN, longest=LONGEST))
    data = _graph(archive)
    state = decode_state(data["tensors"])
    check_fit(plan, state)
    report = Report.from_json(archive.read(REPORT, longest=LONGEST_REPORT)) if REPORT in archive else None
    scores = scores_from_bytes(archive.read(SCORES, longest=LONGEST_SCORES)) if SCORES in archive else None
    parts = _Parts(plan, report, scores, _inputs(archive, data["inputs"], device))
    module, entries = build_module(data, state, _tensors(archive, state, device), device)
    specs = {entry.path: entry.spec for entry in entries if entry.spec is not None}
    module.meta["fxprune"] = Provenance(parts.plan, parts.scores, parts.report, specs, parts.inputs)
    return module


def _graph(archive: Archive) -> dict[str, Any]:
    data = parse(archive.read(GRAPH, longest=LONGEST_GRAPH), GRAPH, longest=LONGEST_GRAPH)
    return fields(upgraded(data, GRAPH, SCHEMA), GRAPH, GRAPH_FIELDS)


def _tensors(archive: Archive, state: list[StateEntry], device: torch.device) -> dict[str, Tensor]:
    declared = [entry.declared for entry in state if entry.declared is not None]
    return restore_tensors(state, _read(archive, WEIGHTS, declared), device)


def _inputs(archive: Archive, value: object, device: torch.device) -> Inputs | None:
    if value is None:
        if INPUTS in archive:
            raise CheckpointError(f"it has the unexpected member {INPUTS}")
        return None
    declared = declared_examples(value)
    tensors = _read(archive, INPUTS, declared) if declared or INPUTS in archive else {}
    return decode_examples(value, tensors, device)  # type: ignore[arg-type]


def _read(archive: Archive, name: str, declared: list[Declared]) -> dict[str, Tensor]:
    size = archive.size(name)
    with archive.open(name) as file:
        return read_tensors(file, size, declared, name)
