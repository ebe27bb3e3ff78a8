"""Plans without weights that a configuration can say.

A plan for a checkpoint is of use where `config.json` can say its widths. Whether it can is found out by trying: the class is
built on the meta device from a configuration whose fields are marked, and their values are solved for
(`fxprune.shards.configuration`).

1. Each kind of groups is cut by itself, to its next narrower width and to half of it. If no configuration says either, the
   kind is held: rotary pairs, for example, or dimensions within heads whose number scales the attention.
2. All other kinds are cut together, as the search says. If no configuration says that (a hidden size that is no multiple
   of the number of heads, which Transformers refuses), numbers of heads and the like are held, the smallest first; then
   widths go in coarser steps, which more numbers divide; then kinds are held, the smallest first, until one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from fxprune.apply.blueprint import Blueprint, blueprint_to_keep_to
from fxprune.errors import InputError
from fxprune.kinds import Kind, find_kinds
from fxprune.plan import Plan
from fxprune.pruning import Subject
from fxprune.widths import Range

Ranges = Mapping[str, Range]

FEW = 64
"""Kinds of fewer indices are numbers of heads and the like."""
LEAST_WIDTHS = 8
"""Widths that coarser steps leave a kind at least."""


def expressible(
    model: nn.Module,
    subject: Subject,
    ranges: Ranges,
    decide: Callable[[Ranges], Plan],
    at: Callable[[Mapping[str, int]], Plan],
) -> tuple[Plan, dict[str, str]]:
    """The plan that the model's configuration can say, and what had to be held for it.

    Args:
        model: a Transformers model, on any device.
        subject: its analysis.
        ranges: widths that groups may be cut to.
        decide: ranges -> the plan that is chosen within them.
        at: widths of all groups -> the plan with these.

    Returns:
        The plan, and each held kind with the reason.

    Raises:
        InputError: the model has no configuration.
        InfeasibleBudget: what may be cut does not meet the budget.
    """
    blueprint = blueprint_to_keep_to(model)
    kinds = [kind for kind in find_kinds(subject.analysis) if any(_narrower(kind, ranges))]
    held = {kind.name: reason for kind in kinds if (reason := _alone(blueprint, subject, kind, ranges, at)) is not None}
    coarser = 1
    while True:
        free = [kind for kind in kinds if kind.name not in held]
        within = _coarser(_holding(ranges, subject, [kind for kind in kinds if kind.name in held]), free, coarser)
        found = decide(within)
        reason = why_not(blueprint, found)
        if reason is None:
            return found, held
        cut = [kind for kind in free if _is_cut(kind, found)]
        if not cut:
            msg = f"the configuration cannot say what is left of the model where nothing is cut: {reason}"
            raise InputError(msg)
        smallest = min(cut, key=lambda kind: kind.size)
        if smallest.size >= FEW and _coarser(within, cut, 2) != within:
            coarser *= 2
        else:
            held[smallest.name], coarser = f"with what else is cut: {reason}", 1


def why_not(blueprint: Blueprint, plan: Plan) -> str | None:
    """Why a model's configuration cannot say a plan; None where it can."""
    from fxprune.shards.configuration import refusal, said

    try:
        said(blueprint.kind, blueprint.config, plan)
    except Exception as error:  # whatever the class makes of fields that it was not written for
        return refusal(error)
    return None


def _alone(
    blueprint: Blueprint, subject: Subject, kind: Kind, ranges: Ranges, at: Callable[[Mapping[str, int]], Plan]
) -> str | None:
    """Why the configuration cannot say any of the widths of a kind that are tried; None where it can."""
    sizes = {group.name: group.size for group in subject.analysis.groups}
    reason: Any = None
    for width in _narrower(kind, ranges):
        reason = why_not(blueprint, at({**sizes, **dict.fromkeys(kind.groups, width)}))
        if reason is None:
            return None
    return str(reason)


def _narrower(kind: Kind, ranges: Ranges) -> Iterator[int]:
    """The next width below a kind's own, and the one nearest to half of it from below, where the ranges allow them."""
    span = ranges[kind.groups[0]]
    below = {(kind.size - 1) // span.step * span.step, kind.size // 2 // span.step * span.step}
    yield from sorted((width for width in below if span.floor <= width < kind.size), reverse=True)


def _holding(ranges: Ranges, subject: Subject, kinds: list[Kind]) -> Ranges:
    """The ranges with some kinds kept whole."""
    sizes = {group.name: group.size for group in subject.analysis.groups}
    names = [name for kind in kinds for name in kind.groups]
    return {**ranges, **{name: replace(ranges[name], floor=sizes[name]) for name in names}}


def _coarser(ranges: Ranges, kinds: list[Kind], factor: int) -> Ranges:
    """The ranges with larger steps for kinds that are left enough widths by them."""
    steps = {name: ranges[name].step * factor for kind in kinds for name in kind.groups}
    sizes = {name: kind.size for kind in kinds for name in kind.groups}
    wide = {name: step for name, step in steps.items() if LEAST_WIDTHS * step <= sizes[name]}
    return {**ranges, **{name: replace(ranges[name], step=step) for name, step in wide.items()}}


def _is_cut(kind: Kind, plan: Plan) -> bool:
    return any(plan.widths[name][0] < plan.widths[name][1] for name in kind.groups)
