"""Torch-Pruning in the quality benchmark: global pruning with group magnitude, Taylor or Hessian importance.

As in its README: the classifier is ignored, all groups are ranked together (`global_pruning`), and with several steps the ratio
grows linearly, importances being estimated anew before every step. Its budget is a share of channels, so ratios are tried
until the FLOPs come just under the budget, each on a fresh copy. What is chosen in its favour:

- `round_to` is left out: the finest choice of widths is the most accurate at equal FLOPs;
- `max_pruning_ratio` 0.95, so that a global ranking does not wear a layer down to one channel (fxprune keeps 5 % too);
- Taylor's gradients are summed over all calibration batches, not taken from one; Hessian's squares are the mean over all
  calibration images. The library's own `accumulate_grad` keeps the last image's alone, as it looks up by name what it stores
  by parameter; so the mean is made here, by `torch.func`, and put where the importance reads it.
"""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from benchmarks.quality_plan import Method, Variant
from benchmarks.quality_problem import Problem, Pruned, loss
from benchmarks.torch_pruning_budget import fresh_groupings, largest_within, next_ratio

CLOSE = 0.005
"""The search ends this far below the budget."""

HESSIAN_BATCH = 256


def prune_torch_pruning(problem: Problem, chosen: Method, wanted: tuple[Variant, ...]) -> Iterator[Pruned]:
    """Search the ratio for every budget."""
    first = gradients(problem.model, problem, chosen.criterion)
    for variant in wanted:
        started = time.perf_counter()
        ratio, model = largest_within(
            lambda ratio: _attempt(problem, chosen, ratio, first),
            problem.flops_share,
            variant.budget,
            problem.tries,
            choose=partial(next_ratio, wanted=variant.budget - CLOSE / 2),
            close=CLOSE,
        )
        yield Pruned(variant, model, time.perf_counter() - started, {"ratio": ratio})


def _attempt(problem: Problem, chosen: Method, ratio: float, first: dict[str, Tensor]) -> nn.Module:
    """A copy, pruned with this ratio in as many steps as the method has."""
    library: Any = importlib.import_module("torch_pruning")
    model = copy.deepcopy(problem.model)
    pruner = library.pruner.BasePruner(
        model,
        problem.example,
        importance=_importance(library, chosen.criterion),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        iterative_steps=chosen.steps,
        ignored_layers=[model.classifier],
        num_heads={},
        **fresh_groupings(),
    )
    for step in range(chosen.steps):
        _set_gradients(model, first if step == 0 else gradients(model, problem, chosen.criterion))
        pruner.step()
    model.zero_grad()
    return model


def _importance(library: Any, criterion: str) -> Any:
    if criterion == "magnitude":
        return library.importance.GroupMagnitudeImportance(p=2)
    if criterion == "taylor":
        return library.importance.GroupTaylorImportance()
    return library.importance.GroupHessianImportance()


def _set_gradients(model: nn.Module, found: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = found[name].clone() if name in found else None


def gradients(model: nn.Module, problem: Problem, criterion: str) -> dict[str, Tensor]:
    """By parameter, what the importance expects as its gradient; nothing for magnitude."""
    if criterion == "magnitude":
        return {}
    return _summed(model, problem) if criterion == "taylor" else _squared(model, problem)


def _summed(model: nn.Module, problem: Problem) -> dict[str, Tensor]:
    """The loss's gradient, summed over the calibration batches."""
    model.zero_grad()
    for batch in problem.batches:
        loss(model(batch[0]), batch).backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def _squared(model: nn.Module, problem: Problem) -> dict[str, Tensor]:
    """The squared gradient of one image's loss, averaged over the calibration images."""
    weights = {name: each.detach() for name, each in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def of_one(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        output: Tensor = functional_call(model, (weights, buffers), (image[None],))
        return functional.cross_entropy(output, label[None])

    each = vmap(grad(of_one), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for images, labels in problem.calibration.batches(HESSIAN_BATCH):
        for name, found in each(weights, images, labels).items():
            total[name] += found.square().sum(0)
    return {name: found / len(problem.calibration) for name, found in total.items()}
