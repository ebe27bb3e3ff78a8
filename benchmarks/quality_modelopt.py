"""ModelOpt's FastNAS in the quality benchmark, called as its documentation does.

`mtp.prune(model, mode=[("fastnas", config)], constraints={"flops": ...}, ...)` with the score function and the calibration
images that fxprune's `fastnas` is given. Its default divisor of 32 leaves these narrow layers whole, and that of its own
ResNet-20 notebook (16) the first stage; DIVISOR is finer, which is in its favour. Its sensitivity map is kept in a
checkpoint, so that the second budget costs no evaluations. It counts FLOPs with torchprofile: where the subnet that it finds is
over the budget by the benchmark's counter, or under it with room to spare, it is asked again for a little less or more.
"""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.quality_plan import Variant
from benchmarks.quality_problem import Problem, Pruned

DIVISOR = 2
CLOSE = 0.005


def prune_modelopt(problem: Problem, wanted: tuple[Variant, ...]) -> Iterator[Pruned]:
    """Search for every budget."""
    for variant in wanted:
        started = time.perf_counter()
        model, constraint = _closest(problem, variant.budget)
        yield Pruned(variant, model, time.perf_counter() - started, {"constraint": constraint})


def _closest(problem: Problem, budget: float) -> tuple[nn.Module, float]:
    """The largest subnet under the budget that was met on the way, and the constraint that gave it."""
    low, high = 0.5 * budget, min(1.3 * budget, 1.0)
    constraint = budget
    best: tuple[float, nn.Module, float] | None = None
    for _ in range(problem.tries):
        model = _search(problem, constraint)
        share = problem.flops_share(model)
        if share <= budget and (best is None or share > best[0]):
            best = (share, model, constraint)
        if budget - CLOSE <= share <= budget:
            break
        low, high = (constraint, high) if share <= budget else (low, constraint)
        constraint = (low + high) / 2
    if best is None:
        msg = f"no subnet comes under {budget:.0%} of the FLOPs"
        raise ValueError(msg)
    return best[1], best[2]


def _search(problem: Problem, constraint: float) -> nn.Module:
    """One call of `mtp.prune` on a copy."""
    library: Any = importlib.import_module("modelopt.torch.prune")
    config = library.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"]["channel_divisor"] = DIVISOR
    config["nn.BatchNorm2d"]["*"]["feature_divisor"] = DIVISOR
    pruned: nn.Module
    pruned, _ = library.prune(
        copy.deepcopy(problem.model),
        mode=[("fastnas", config)],
        constraints={"flops": f"{100 * constraint:.2f}%"},
        dummy_input=problem.example,
        config={
            "data_loader": problem.batches,
            "score_func": problem.score,
            "checkpoint": str(problem.folder / "fastnas.pth"),
            "verbose": False,
        },
    )
    return pruned
