"""fxprune on one model: compile to 60 % of its FLOPs as a user would, then question the result.

A model passes when the module that is handed out meets the budget by torch's own count, is within 1e-4 of the masked
original by fxprune's own check, is not contradicted by the independent reference interpreter, and trains a step. What
fails, by status:

- "refused": fxprune raised one of its own errors before anything was handed out;
- "crashed": another exception;
- "inexact": handed out, the reference interpreter does not contradict, but the error is over 1e-4, though float32 can
  say the model's outputs more exactly than that (`rounding`, the error of the slim module against itself in float64);
- "no training": handed out, but a training step fails that the original can make;
- "wrong": handed out, and the reference interpreter contradicts, or the budget is not met.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxprune
from benchmarks.coverage_child import Record, describe
from benchmarks.coverage_compare import ask_oracle, count_flops, in_double, largest_error, outputs
from benchmarks.coverage_models import Example, parameters
from fxprune.analysis import Analysis
from fxprune.axes import leaves
from fxprune.errors import FxpruneError
from fxprune.groups import find_groups
from fxprune.propagate import propagate

BUDGET = 0.6
TOLERANCE = 1e-4


def measure_fxprune(example: Example, record: Record, *, onnx: bool = False, apply: bool = False) -> None:
    """Fill the record."""
    heard: dict[str, Any] = {}
    try:
        with record.during("compile"), _listening(heard, record):
            slim = fxprune.compile(example.model, {"flops": BUDGET}, example_inputs=example.inputs)
    except Exception as error:
        status = "refused" if isinstance(error, FxpruneError) else "crashed"
        record.tell(captured="capture" in heard, status=status, failure=describe(error))
        _tell_analysis(heard, record)
        return
    record.tell(captured=True, compiled=True, error=slim.report.error, notes=list(slim.report.notes))
    _tell_analysis(heard, record)
    with record.during("count"):
        _tell_costs(slim, example, record)
    with record.during("oracle"):
        oracle = ask_oracle(heard["capture"].graph_module, slim.plan.slices, slim.eval(), example)
        record.tell(oracle=oracle, rounding=_rounding(slim, example) if (slim.report.error or 0.0) > TOLERANCE else 0.0)
    if apply:
        with record.during("apply"):
            record.tell(apply=_try_apply(slim, example))
    if onnx:
        with record.during("onnx"):
            record.tell(onnx=_try_onnx(slim))
    with record.during("train"):
        record.tell(**_try_training(slim, example))
    record.stage = "done"
    record.tell(status=_status(record.found))


@contextlib.contextmanager
def _listening(heard: dict[str, Any], record: Record) -> Iterator[None]:
    """Keep what two of the steps inside `compile` return, and their seconds; nothing is changed."""
    module = importlib.import_module("fxprune.pruning")

    def listen(name: str) -> Callable[..., Any]:
        function = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            heard[name] = function(*args, **kwargs)
            record.seconds(name, time.perf_counter() - started)
            record.tell()
            return heard[name]

        return call

    with contextlib.ExitStack() as stack:
        for name in ("capture", "analyze_program"):
            stack.enter_context(mock.patch.object(module, name, listen(name)))
        yield


def _tell_analysis(heard: dict[str, Any], record: Record) -> None:
    """Size of the graph, seconds of the analysis proper (best of three), and the share that cannot be cut."""
    if "capture" not in heard:
        return
    program = heard["capture"]
    record.tell(nodes=len(program.nodes), dynamic_batch=program.dynamic_batch)
    if "analyze_program" not in heard:
        return
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        find_groups(program, propagate(program, {}))
        durations.append(time.perf_counter() - started)
    record.seconds("analysis", min(durations))
    analysis: Analysis = heard["analyze_program"]
    record.tell(groups=len(analysis.groups), uncuttable=_uncuttable(analysis))


def _uncuttable(analysis: Analysis) -> float:
    """Share of the parameters that belong to tensors of which no axis can be cut."""
    program = analysis.program
    sizes = {
        program.canonical(name): tensor.numel()
        for name, tensor in program.tensors.items()
        if name not in program.buffers
    }
    tensors = analysis.propagation.tensors
    free = (
        name
        for name in sizes
        if any(leaf.pin is None and leaf.size > 1 for axis in tensors.get(name, ()) for leaf in leaves(axis))
    )
    return 1.0 - sum(sizes[name] for name in free) / max(sum(sizes.values()), 1)


def _tell_costs(slim: fxprune.SlimModule, example: Example, record: Record) -> None:
    """Torch's counts before and after, whether the report says the same, and how much cutting changes the outputs."""
    before, after = count_flops(example.model, example), count_flops(slim.eval(), example)
    reported = next(metric for metric in slim.report.metrics if metric.name == "flops")
    record.tell(
        flops=[before, after],
        flops_reported=[reported.before, reported.after],
        count_agrees=[before, after] == [reported.before, reported.after],
        budget_met=after <= BUDGET * before,
        parameters_after=parameters(slim),
        change=largest_error(outputs(example.model, example), outputs(slim, example)),
    )


def _try_training(slim: nn.Module, example: Example) -> dict[str, Any]:
    """Whether one step changes parameters and stays finite; `trains` is None where the original cannot either."""
    failure: dict[str, str] | None = None
    try:
        if _step(slim, example):
            return {"trains": True}
    except Exception as problem:
        failure = describe(problem)
    with contextlib.suppress(Exception):
        if _step(copy.deepcopy(example.model), example):
            return {"trains": False, "training_failure": failure}
    return {"trains": None}


def _step(module: nn.Module, example: Example) -> bool:
    module.train()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    optimiser = torch.optim.SGD([each for each in module.parameters() if each.requires_grad], lr=1e-3)
    results = [each for each in tree_leaves(example.call(module)) if isinstance(each, Tensor) and each.requires_grad]
    loss = torch.stack([each.float().square().mean() for each in results]).sum()
    loss.backward()
    optimiser.step()
    changed = any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    return changed and bool(torch.isfinite(loss))


def _try_onnx(slim: fxprune.SlimModule) -> dict[str, Any]:
    """Whether the export agrees in ONNX Runtime, by the backend's own comparison."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            artifact = fxprune.lower(slim, "onnx", Path(folder) / "slim.onnx")
    except Exception as error:
        return {"agrees": False, "failure": describe(error)}
    return {"agrees": True, "error": artifact.largest_relative_error}


def _try_apply(slim: fxprune.SlimModule, example: Example) -> dict[str, Any] | None:
    """Whether the user's own class, slimmed, computes the same; None where this fxprune has no `apply`."""
    function = getattr(fxprune, "apply", None)
    if not callable(function):
        return None
    try:
        applied = function(slim, copy.deepcopy(example.model))
        error = largest_error(outputs(slim.eval(), example), outputs(applied.eval(), example))
    except Exception as problem:
        return {"agrees": False, "failure": describe(problem)}
    return {"agrees": error <= TOLERANCE and isinstance(applied, type(example.model)), "error": error}


def _rounding(slim: nn.Module, example: Example) -> float:
    """How much the module's outputs lose to float32: a deep random model can lose everything."""
    doubled = in_double(example, slim)
    return largest_error(outputs(doubled.model, doubled), outputs(slim, example))


def _status(found: dict[str, Any]) -> str:
    verdict = found["oracle"]["verdict"]
    if verdict not in ("agrees", "undefined") or not found["budget_met"]:
        return "wrong"
    if found["error"] is None or not found["error"] <= max(TOLERANCE, 10 * found["rounding"]):
        return "inexact"
    return "no training" if found["trains"] is False else "pass"
