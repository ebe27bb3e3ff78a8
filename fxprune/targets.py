"""Exact widths as a budget: `{"config": {"hidden_size": 3072, "num_hidden_layers": 24}}`.

A key is a field of the model's configuration, or the name of a group or kind or a pattern that matches some.

What a field means is asked of the model's own class: it is built once more, on the meta device, from the configuration
with the new values. The parameters' new shapes are equations for the widths of kinds (`fxprune.equations`), and blocks
whose parameters are gone say how many to drop. Shapes do not tell heads from what lies inside them, so first what is inside
keeps its width, then the heads do. Where both can be, they are tried: the class, built with the new configuration and given
the weights of either cut, says by what it computes which one the configuration means.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.blocks import outermost
from fxprune.budget import Budget, format_amount, parse_budget
from fxprune.depth import Depth
from fxprune.dropping import without_least
from fxprune.equations import Equation, solve
from fxprune.errors import BudgetError, InfeasibleBudget, InputError, Shortfall
from fxprune.grid import GRID, Grid
from fxprune.kinds import Kind, find_kinds
from fxprune.passes.taps import heads_around, inside_heads
from fxprune.rebuilt import build, error_of, new_names, renamed, shapes_of
from fxprune.search.problem import usage_of

if TYPE_CHECKING:
    from fxprune.analysis import Analysis
    from fxprune.pruning import Subject
    from fxprune.scorer import Context
    from fxprune.scores import Scores

KEY = "config"


@dataclass(frozen=True, slots=True)
class Target:
    """What the user asked for, by where it is to be found.

    Attributes:
        fields: of the model's configuration -> value.
        names: of groups or kinds, or patterns -> width.
    """

    fields: Mapping[str, int]
    names: Mapping[str, int]

    def __str__(self) -> str:
        """As a budget states it."""
        return ", ".join(f"{name}={value}" for name, value in {**self.fields, **self.names}.items())


def split_budget(budget: Any, model: nn.Module) -> tuple[Target | None, Any]:
    """The exact widths of a budget, if it has some, and what else it limits.

    Raises:
        BudgetError: the widths are no mapping of names to whole numbers from 1 on.
    """
    if not isinstance(budget, Mapping) or KEY not in budget:
        return None, budget
    asked = budget[KEY]
    if not isinstance(asked, Mapping) or not asked:
        msg = f'The budget\'s config is {asked!r}; write exact widths: {{"config": {{"hidden_size": 3072}}}}.'
        raise BudgetError(msg)
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            msg = f"The budget's config asks for {name}={value!r}; a width is a whole number from 1 on."
            raise BudgetError(msg)
    fields = {name: value for name, value in asked.items() if _has_field(model, name)}
    names = {name: value for name, value in asked.items() if name not in fields}
    return Target(fields, names), {key: each for key, each in budget.items() if key != KEY}


def _has_field(model: nn.Module, name: str) -> bool:
    """Whether the class can be built from a configuration with that number in it."""
    value = getattr(getattr(model, "config", None), name, None)
    return isinstance(value, int) and not isinstance(value, bool) and hasattr(type(model), "_from_config")


def method_of(search: str | Grid | None, target: Target | None) -> str | None:
    """Name of the search, for the plan and the report.

    Raises:
        InputError: there is nothing to search, as the budget says all widths.
    """
    if target is None:
        return GRID if isinstance(search, Grid) else search
    if search is not None:
        msg = f"search={search!r} and exact widths (the budget's config) exclude each other; leave one of them out"
        raise InputError(msg)
    return KEY


def limits_of(budget: Any, target: Target | None, original: Mapping[str, float]) -> Budget:
    """The budget's limits, which may be none where there is a target.

    Raises:
        BudgetError: as `parse_budget` does.
    """
    if target is None:
        return parse_budget(budget, original)
    parsed = parse_budget(budget, original) if budget else Budget({}, {})
    return Budget(parsed.limits, {**parsed.stated, KEY: str(target)})


def on_target(
    subject: Subject, scores: Scores, limits: Budget, context: Context, target: Target | None
) -> tuple[Subject, Scores, Mapping[str, int] | None]:
    """The widths that a target asks for, and the subject at its depth; without a target no widths.

    Raises:
        BudgetError: a name or field is unknown, or asks for what cutting cannot give.
        InfeasibleBudget: the target does not hold the other limits.
    """
    if target is None:
        return subject, scores, None
    shapes = shapes_of(build(context.model, target.fields, torch.device("meta"))) if target.fields else {}
    if shapes:
        subject, scores = _at_depth(subject, scores, shapes, context)
    kinds = find_kinds(subject.analysis)
    named = _by_group(_named(kinds, target.names))
    solutions = [_by_group(each) for each in _solutions(subject, kinds, shapes)] if shapes else [_whole(kinds)]
    if not solutions or (shapes and not subject.dropped and not _changes(subject, shapes, context.model, target)):
        raise BudgetError(_unreachable(subject, shapes, target))
    _check_least(subject.analysis, {**solutions[0], **named}, target)
    if len(solutions) > 1:
        solutions.sort(key=lambda widths: error_of(subject, scores, widths, context.model, target.fields))
    _check_idle(subject, scores, solutions[0], context.model, target, shapes)
    widths = {**solutions[0], **named}
    _check_limits(subject.analysis, widths, limits)
    return subject, replace(scores, whole=frozenset()), widths


def _whole(kinds: Sequence[Kind]) -> dict[str, int]:
    return _by_group({kind: kind.size for kind in kinds})


def _changes(subject: Subject, shapes: Mapping[str, tuple[int, ...]], model: nn.Module, target: Target) -> bool:
    """Whether the fields change a shape, or none of their values is new."""
    tensors = subject.analysis.program.tensors
    same = all(getattr(model.config, name) == value for name, value in target.fields.items())
    return same or any(tuple(tensors[name].shape) != shape for name, shape in shapes.items() if name in tensors)


def _check_idle(
    subject: Subject,
    scores: Scores,
    widths: Mapping[str, int],
    model: nn.Module,
    target: Target,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse fields that give no width, but would have the model compute something else than the cut does.

    A number of heads may give no shape and yet be right: without it the class computes something else.
    """
    new = [name for name, value in target.fields.items() if getattr(model.config, name) != value]
    for name in new if len(new) > 1 else ():
        others = {each: value for each, value in target.fields.items() if each != name}
        try:
            idle = shapes_of(build(model, others, torch.device("meta"))) == shapes
        except BudgetError:
            continue  # the others need it
        if idle and error_of(subject, scores, widths, model, others) < error_of(
            subject, scores, widths, model, target.fields
        ):
            msg = (
                f"The budget's config asks for {name}={target.fields[name]}, which is no width, and changes what the model "
                "computes; leave it out."
            )
            raise BudgetError(msg)


def _by_group(widths: Mapping[Kind, int]) -> dict[str, int]:
    return {name: width for kind, width in widths.items() for name in kind.groups}


def _at_depth(
    subject: Subject, scores: Scores, shapes: Mapping[str, tuple[int, ...]], context: Context
) -> tuple[Subject, Scores]:
    """The subject without as many blocks as the new shapes lack."""
    blocks = outermost(subject.whole.blocks)
    gone = [each for each in blocks if not any(name.startswith(f"{each.name}.") for name in shapes)]
    if subject.dropped and len(subject.dropped) != len(gone):
        msg = (
            f"drop= takes {len(subject.dropped)} blocks, and the budget's config {len(gone)}; leave drop= out, so that the "
            "least important ones go, or let both say the same number."
        )
        raise BudgetError(msg)
    return (subject, scores) if subject.dropped else without_least(subject, scores, Depth(len(gone)), context)


def _named(kinds: Sequence[Kind], names: Mapping[str, int]) -> dict[Kind, int]:
    """Widths of kinds that are named, alone or through one of their groups."""
    found: dict[Kind, int] = {}
    for pattern, width in names.items():
        own = [kind for kind in kinds if _matches(pattern, kind)]
        if not own:
            known = [kind.name for kind in kinds]
            close = get_close_matches(pattern, known, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            msg = (
                f"The budget's config names {pattern!r}, which is no number of the model's configuration, and no group "
                f"that can be cut. {hint}Kinds of groups are: {', '.join(known[:8])}."
            )
            raise BudgetError(msg)
        wide = next((kind for kind in own if kind.size < width), None)
        if wide is not None:
            msg = f"The budget's config asks for {pattern}={width}, but {wide.name} has {wide.size}."
            raise BudgetError(msg)
        found.update(dict.fromkeys(own, width))
    return found


def _matches(pattern: str, kind: Kind) -> bool:
    return pattern == kind.name or any(fnmatch.fnmatchcase(name, pattern) for name in kind.groups)


def _solutions(subject: Subject, kinds: Sequence[Kind], shapes: Mapping[str, tuple[int, ...]]) -> list[dict[Kind, int]]:
    """Widths that give the shapes: with what lies inside heads kept, with heads kept, with neither; each once."""
    analysis = subject.analysis
    equations = _equations(subject, shapes)
    of_group = {name: kind for kind in kinds for name in kind.groups}
    variables = {group.variable: of_group[group.name] for group in analysis.groups}
    found: list[dict[Kind, int]] = []
    for keeping in (inside_heads(analysis), heads_around(analysis), frozenset[str]()):
        solution = solve(equations, variables, {of_group[name] for name in keeping})
        if solution is not None and solution not in found:
            found.append(solution)
    return found


def _equations(subject: Subject, shapes: Mapping[str, tuple[int, ...]]) -> list[Equation]:
    analysis, paths = subject.analysis, new_names(subject)
    return [
        Equation(name, dim, axis, shape[dim])
        for name, axes in analysis.propagation.tensors.items()
        if (shape := shapes.get(renamed(name, paths))) is not None and len(shape) == len(axes)
        for dim, axis in enumerate(axes)
    ]


def _check_least(analysis: Analysis, widths: Mapping[str, int], target: Target) -> None:
    few = next((group for group in analysis.groups if widths[group.name] < group.least), None)
    if few is not None:
        msg = f"The budget's config {target} leaves {few.name} {widths[few.name]} experts, and the router chooses {few.least}."
        raise BudgetError(msg)


def _check_limits(analysis: Analysis, widths: Mapping[str, int], limits: Budget) -> None:
    usage = usage_of(analysis.costs, widths, tuple(limits.limits))
    original = analysis.costs.original
    short = {
        metric: Shortfall(limit, usage[metric], original[metric])
        for metric, limit in limits.limits.items()
        if usage[metric] > limit
    }
    if short:
        lines = [
            f"  {m}: {format_amount(m, s.smallest)}, at most {format_amount(m, s.limit)}" for m, s in short.items()
        ]
        raise InfeasibleBudget("The widths of the budget's config do not hold its limits:\n" + "\n".join(lines), short)


def _unreachable(subject: Subject, shapes: Mapping[str, tuple[int, ...]], target: Target) -> str:
    """What the configuration asks for that cutting cannot give."""
    paths, tensors = new_names(subject), subject.analysis.program.tensors
    for name, tensor in tensors.items():
        shape = shapes.get(renamed(name, paths))
        if shape is not None and any(new > old for new, old in zip(shape, tensor.shape, strict=False)):
            return f"The budget's config {target} makes {name} larger: {tuple(tensor.shape)} would be {shape}."
    changed = [
        f"{name} from {tuple(tensor.shape)} to {shape}"
        for name, tensor in tensors.items()
        if (shape := shapes.get(renamed(name, paths))) is not None and shape != tuple(tensor.shape)
    ]
    what = f"cutting {changed[0]} is not possible, alone or with what it entails" if changed else "it changes no shape"
    return (
        f"The budget's config {target} names no width that can be cut: {what}. fxprune.analyze(model) shows the groups, "
        "whose names config takes too; heads are cut with num_attention_heads and num_key_value_heads together."
    )
