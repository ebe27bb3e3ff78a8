"""Planning without weights: the decision what to keep of a model that exists as shapes alone, on the meta device.

Capture, analysis, costs and search look at shapes, never at values, so that a model of any size is planned on a laptop:

    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    plan = fxprune.plan(model, {"params": "70%"}, scores="scores.safetensors")
    fxprune.apply_to_checkpoint(plan, "Llama-3.1-405B", "Llama-3.1-405B-slim")

What is kept is what scores of an earlier run say, or without scores the first indices of every group. The graph is captured
with the sizes of the example inputs: free ones take twice as long, and a plan does not speak of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.analysis import analyze_program
from fxprune.budget import parse_budget
from fxprune.capture import capture
from fxprune.depth import choose_blocks, without_blocks
from fxprune.expressible import expressible
from fxprune.groups import Group
from fxprune.inputs import find_inputs, normalise_inputs
from fxprune.kv_cache import KVCache, with_kv_cache
from fxprune.plan import Plan
from fxprune.pruning import Making, Subject, decide, score_subject
from fxprune.scorer import Context
from fxprune.scores import Scores
from fxprune.widths import Align, Floor, Range, follows_gpu, width_ranges

POSITION = "position"
"""Name of the scores that stand in where there are none."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it costs.

    Attributes:
        plan: what is kept.
        before: metric -> cost of the whole model.
        after: metric -> cost of what is kept.
        held: kinds of groups that were kept whole for the configuration's sake -> why.
    """

    plan: Plan
    before: Mapping[str, float]
    after: Mapping[str, float]
    held: Mapping[str, str] = field(default_factory=dict)


def plan(
    model: nn.Module,
    budget: str | float | Mapping[str, str | float],
    *,
    example_inputs: Any = None,
    scores: Scores | str | PathLike[str] | None = None,
    ignore: Sequence[str] = (),
    align: Align | None = None,
    floor: Floor | None = None,
    drop: Sequence[str] = (),
    search: str = "uniform",
    strict: bool = False,
    kv_cache: KVCache | None = None,
    config: bool = False,
) -> Plan:
    """Decide what to keep of a model, without weights and without building the slim one.

    Args:
        model: on the meta device, or with weights, which are not looked at; it is never changed.
        budget: as for `compile`.
        example_inputs: as for `compile`; tensors are taken to the model's device.
        scores: of an earlier run on a model with these groups, or a file of them; None keeps the first indices of every
            group, which says how much is kept, not what is worth keeping.
        ignore: names of modules or parameters, or `fnmatch` patterns, whose tensors keep their shape.
        align: the multiple that widths are kept to, as for `compile`.
        floor: smallest widths, as for `compile`; 1.0 for groups, by name or pattern, that stay whole.
        drop: blocks to drop whole, by name or pattern.
        search: "uniform" (one ratio for all groups, which a configuration can say), "knapsack" or "threshold".
        strict: raise where an operation has no rule.
        kv_cache: as for `compile`.
        config: keep to widths that the configuration of a Transformers model can say (`fxprune.expressible`).

    Returns:
        The plan, for `apply_to_checkpoint` or `apply`.

    Raises:
        InputError: an argument is unusable.
        CaptureError: the model cannot be captured; so it is where its Python asks for values of tensors.
        InfeasibleBudget: no choice of widths meets the budget.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> with torch.device("meta"):
        ...     model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> fxprune.plan(model, "50%", example_inputs=torch.randn(2, 8)).widths["0"]
        (32, 64)
    """
    subject = survey(model, example_inputs, ignore=ignore, drop=drop, strict=strict, kv_cache=kv_cache)
    found = Scores.load(scores) if isinstance(scores, str | PathLike) else scores
    return choose(model, subject, budget, found, align=align, floor=floor, search=search, config=config).plan


def survey(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    ignore: Sequence[str] = (),
    drop: Sequence[str] = (),
    strict: bool = False,
    kv_cache: KVCache | None = None,
) -> Subject:
    """Capture with fixed sizes, and analyze: the first half of `plan`."""
    inputs = example_inputs
    if isinstance(model, nn.Module):
        args, kwargs = find_inputs(model, None)[0] if inputs is None else normalise_inputs(inputs)
        args, kwargs = tree_map(lambda leaf: _beside(leaf, model), (args, kwargs))
        inputs = args or kwargs
    program = with_kv_cache(model, capture(model, inputs, free_batch=False), kv_cache)
    whole = analyze_program(program, ignore=ignore, strict=strict)
    dropped = choose_blocks(whole, drop)
    analysis = without_blocks(whole, dropped, ignore=ignore, strict=strict)
    return Subject(whole, dropped, analysis, (ignore,) if isinstance(ignore, str) else tuple(ignore))


def _beside(leaf: Any, model: nn.Module) -> Any:
    """A tensor on the meta device, where the model is there."""
    on_meta = any(tensor.is_meta for tensor in model.parameters())
    return leaf.to("meta") if on_meta and isinstance(leaf, Tensor) else leaf


def choose(
    model: nn.Module,
    subject: Subject,
    budget: str | float | Mapping[str, str | float],
    scores: Scores | None,
    *,
    align: Align | None = None,
    floor: Floor | None = None,
    search: str = "uniform",
    config: bool = False,
) -> Planned:
    """Search within the budget: the second half of `plan`."""
    analysis = subject.analysis
    found = (
        by_position(analysis.groups)
        if scores is None
        else score_subject(None, scores, subject, Context(model, analysis))
    )
    limits = parse_budget(budget, subject.whole.costs.original)
    ranges = width_ranges(analysis, align, floor)
    making = Making(ranges, search, 0, verify=False, repairing=None, fast=follows_gpu(analysis, align))

    def within(some: Mapping[str, Range]) -> Plan:
        return decide(subject, found, limits, replace(making, ranges=some))

    def at(widths: Mapping[str, int]) -> Plan:
        return decide(subject, found, limits, making, widths)

    made, held = expressible(model, subject, ranges, within, at) if config else (within(ranges), {})
    widths = np.array([[made.widths[name][0] for name in analysis.costs.groups]])
    after = {metric: float(cost[0]) for metric, cost in analysis.costs.evaluate(widths).items()}
    return Planned(made, subject.whole.costs.original, after, held)


def by_position(groups: Sequence[Group]) -> Scores:
    """Equal importances, of which the first ones are kept."""
    return Scores(POSITION, {group.name: np.ones(group.shape) for group in groups})
