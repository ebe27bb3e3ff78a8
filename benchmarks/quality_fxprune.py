"""fxprune in the quality benchmark: one call of `fxprune.compile` for every variant.

A scorer is given what it needs and no more: the calibration images for `obs`, and for whatever reconstructs; their labels,
through `loss`, for gradients; accuracy on held-out training images for `fastnas`. Scores do not depend on the budget, so
those of the first variant serve the others (`scores=`). Any width may be chosen (`align=1`), as the peers may choose any: this
comparison is about accuracy at equal FLOPs, not about speed.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from typing import Any

import fxprune
from benchmarks.quality_plan import Method, Variant
from benchmarks.quality_problem import Problem, Pruned, loss
from fxprune.scorer import find_scorer


def prune_fxprune(problem: Problem, chosen: Method, wanted: tuple[Variant, ...]) -> Iterator[Pruned]:
    """Compile for every variant; those with reconstruction are left out where `compile` does not know it."""
    knows = "reconstruct" in inspect.signature(fxprune.compile).parameters
    scores: Any = None
    for variant in wanted:
        if variant.reconstruct and not knows:
            continue
        arguments = _scoring(problem, chosen.criterion, scores, variant)
        if knows:
            arguments["reconstruct"] = variant.reconstruct
        started = time.perf_counter()
        slim = fxprune.compile(
            problem.model,
            {"flops": variant.budget},
            example_inputs=(problem.example,),
            seed=problem.seed,
            align=1,
            **arguments,
        )
        scores = slim.scores
        yield Pruned(variant, slim, time.perf_counter() - started, {})


def _scoring(problem: Problem, criterion: str, scores: Any, variant: Variant) -> dict[str, Any]:
    """The arguments of `compile` that say how to score, and what with."""
    needs = find_scorer(criterion).needs if scores is None else frozenset()
    given: dict[str, Any] = {"scorer": criterion} if scores is None else {"scores": scores}
    if "data" in needs or variant.reconstruct or criterion == "fastnas":
        given["data"] = problem.batches
    if "loss" in needs:
        given["loss"] = loss
    if "score" in needs:
        given["score"] = problem.score
    return given
