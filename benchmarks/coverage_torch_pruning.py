"""Torch-Pruning on one model, as a newcomer calls it: group magnitude, half of the channels, multiples of 8.

Nothing is said about heads or layers of the model, except that the last layer is not to be pruned: modules whose number
of outputs is the number of classes, as in Torch-Pruning's own examples. What counts:

- runs: `step()` returns, something was cut, and the pruned model's forward pass runs;
- keeps its outputs: they have the shapes that they had;
- right: the pruned model computes what the original computes with those slices masked, by the same independent
  reference interpreter that fxprune is held to. The slices are read off the pruned weights, whose values are the
  original's. Where the interpreter cannot tell, the answer counts in Torch-Pruning's favour.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_child import Record, describe
from benchmarks.coverage_compare import ask_oracle, count_flops, largest_error, outputs, without_cache
from benchmarks.coverage_models import Example, parameters

LARGEST_NO_OP = 0.99
"""A model that keeps more than this share of its parameters was not pruned."""


def measure_torch_pruning(example: Example, record: Record) -> None:
    """Fill the record."""
    record.found["versions"]["torch-pruning"] = importlib.metadata.version("torch-pruning")
    expected = outputs(without_cache(example.model), example)
    try:
        with record.during("prune"):
            pruned = _prune(without_cache(example.model), example)
        record.tell(parameters_after=parameters(pruned))
        with record.during("forward"):
            actual = outputs(pruned, example)
    except Exception as error:
        record.tell(status="failed", failure=describe(error))
        return
    if parameters(pruned) > LARGEST_NO_OP * parameters(example.model):
        record.tell(status="nothing cut")
        return
    same = [each.shape for each in actual] == [each.shape for each in expected]
    record.tell(status="runs", keeps_outputs=same)
    record.tell(
        change=largest_error(expected, actual),
        flops=[count_flops(example.model, example), count_flops(pruned, example)],
    )
    with record.during("oracle"):
        record.tell(oracle=_question(example, pruned))
    record.stage = "done"
    record.tell()


def _prune(model: nn.Module, example: Example) -> nn.Module:
    """As the README does it."""
    library: Any = importlib.import_module("torch_pruning")
    ignored = [
        module
        for module in model.modules()
        if example.classes is not None
        and example.classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    ]
    pruner = library.pruner.BasePruner(
        model,
        example.inputs,
        importance=library.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        round_to=8,
        ignored_layers=ignored,
    )
    pruner.step()
    return model


def _question(example: Example, pruned: nn.Module) -> dict[str, Any]:
    """Ask the reference interpreter; "not checked" where the original has no graph or the slices cannot be read off."""
    try:
        from fxprune.capture import capture

        slices = read_slices(example.model, pruned)
        graph = capture(example.model, example.inputs).graph_module
    except Exception as error:
        return {"verdict": "not checked", "message": f"{type(error).__name__}: {error}"[:300]}
    return ask_oracle(graph, slices, pruned, example)


def read_slices(original: nn.Module, pruned: nn.Module) -> dict[str, dict[int, list[int]]]:
    """Kept indices of every axis that lost some, by looking up the pruned values in the original's."""
    before = {**dict(original.named_parameters()), **dict(original.named_buffers())}
    after = {**dict(pruned.named_parameters()), **dict(pruned.named_buffers())}
    found = {
        name: kept for name, tensor in after.items() if (kept := _kept(before[name].detach(), tensor.detach(), name))
    }
    return {name: _as_beside(name, kept, found, before, after) for name, kept in found.items()}


def _as_beside(
    name: str, kept: dict[int, list[int]], found: Mapping[str, dict[int, list[int]]], before: Any, after: Any
) -> dict[int, list[int]]:
    """Of a vector with equal values, such as a bias of zeros, what the matrix beside it in its module says, if that fits."""
    if before[name].dim() != 1 or len(before[name].unique()) == len(before[name]):
        return kept
    module = name.rpartition(".")[0]
    for other, own in found.items():
        beside = other.rpartition(".")[0] == module and before[other].dim() > 1 and len(own.get(0, ())) == len(kept[0])
        if beside and len(before[other]) == len(before[name]) and torch.equal(before[name][own[0]], after[name]):
            return {0: own[0]}
    return kept


def _kept(before: Tensor, after: Tensor, name: str) -> dict[int, list[int]]:
    if before.shape == after.shape:
        return {}
    assert before.dim() == after.dim(), f"{name} changed its number of axes"
    if before.dim() == 1:
        return {0: _ascending(before.tolist(), after.tolist(), name)}
    values, order = before.flatten().sort()
    found = torch.searchsorted(values, after.flatten()).clamp_max(len(values) - 1)
    places = torch.unravel_index(order[found], before.shape)
    kept: dict[int, list[int]] = {}
    for dim, place in enumerate(places):
        if before.shape[dim] != after.shape[dim]:
            # Few values occur twice: the most frequent place over the other axes is the right one.
            rows = place.reshape(after.shape).movedim(dim, 0).reshape(after.shape[dim], -1)
            kept[dim] = [int(each) for each in rows.mode(dim=1).values]
    index = torch.meshgrid(
        *(torch.tensor(kept.get(d, range(size))) for d, size in enumerate(before.shape)), indexing="ij"
    )
    assert torch.equal(before[index], after), f"{name} is no slice of the original"
    return kept


def _ascending(before: list[float], after: list[float], name: str) -> list[int]:
    """Places of `after` in `before` in ascending order, whichever of equal values they are: two channels may share one."""
    kept: list[int] = []
    at = 0
    for value in after:
        while at < len(before) and before[at] != value:
            at += 1
        assert at < len(before), f"{name} is no slice of the original in its order"
        kept.append(at)
        at += 1
    return kept
