"""The steps of a compilation, each of which can be taken alone: understand, score, build (search and rewrite).

`compile` takes them one after the other; `sweep` builds many times from one understanding and one scoring; `iterate` takes
all of them again and again, and rewrites the original in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.analysis import Analysis, analyze_program
from fxprune.apply.sayable import Sayable, find_sayable
from fxprune.batches import example_from
from fxprune.blocks import Block
from fxprune.budget import Budget
from fxprune.capture import capture
from fxprune.costs.roofline import ROOFLINE, find_roofline
from fxprune.cut import Cut
from fxprune.depth import Depth, Drop, choose_blocks, without_blocks
from fxprune.errors import InfeasibleBudget, InputError, PluginError
from fxprune.exclusive import exclusive
from fxprune.finished import recall_scores
from fxprune.kinds import find_kinds, tied_ranges
from fxprune.kv_cache import KVCache, with_kv_cache
from fxprune.passes.bypass import verify_drop
from fxprune.passes.idle import drop_idle_views
from fxprune.passes.layout import lay_out
from fxprune.passes.masks import drop_idle_masks
from fxprune.passes.repair import repair
from fxprune.passes.slim import slim_graph
from fxprune.passes.verify import verify as verify_slim
from fxprune.plan import Plan, difference, kept_lists, signature_of, slices_of, widths_of
from fxprune.report import Outcome, make_report, what_holds
from fxprune.scorer import Context, Scorer, check_needs, find_scorer, fitting_scorer
from fxprune.scores import Scores
from fxprune.scoring import check_scores, run_scorer
from fxprune.search import Choices, Costs, FurtherCosts, build_choices, search_fast, search_roomy
from fxprune.search import search as search_widths
from fxprune.search.ties import Tie
from fxprune.slim_module import SlimModule, assemble, attach_report
from fxprune.version import __version__
from fxprune.widths import Range, keep_most_important

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_SEARCH = "knapsack"


@dataclass(frozen=True, slots=True)
class Repairing:
    """What weights are repaired by after the cut.

    Attributes:
        data: the user's batches; None makes the repair say that they are missing.
        collect: batch -> inputs.
    """

    data: Iterable[Any] | None
    collect: Callable[[Any], Any] | None


def repairing(
    reconstruct: bool | None, data: Iterable[Any] | None, collect: Callable[[Any], Any] | None
) -> Repairing | None:
    """What `compile(reconstruct=...)` stands for: None is yes where there is data."""
    wanted = data is not None if reconstruct is None else reconstruct
    return Repairing(data, collect) if wanted else None


@dataclass(frozen=True, slots=True)
class Making:
    """How a slim module is made, once there are scores.

    Attributes:
        ranges: the widths that each group may be cut to.
        search: name of the search method; None for the one that suits the scores.
        seed: for choices at random.
        verify: whether the result is compared with the original, its cut parts silenced.
        repairing: what weights are repaired by; None to leave them as cut.
        notes: what the report says of the ranges.
        fast: whether, among widths within the budget, time that memory is to blame for is saved (`fxprune.search.fast`).
    """

    ranges: Mapping[str, Range]
    search: str | None
    seed: int
    verify: bool
    repairing: Repairing | None
    notes: tuple[str, ...] = ()
    fast: bool = False

    def method(self, scores: Scores) -> str:
        """Name of the search method for these scores."""
        return self.search or scores.search or DEFAULT_SEARCH


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be pruned, analysed.

    Attributes:
        whole: the analysis of the whole model.
        dropped: the blocks that go whole.
        analysis: that of the model without them.
        ignore: patterns of what has to keep its shape.
        sayable: what the model's configuration can say; None where the search need not keep to that.
    """

    whole: Analysis
    dropped: tuple[Block, ...]
    analysis: Analysis
    ignore: tuple[str, ...]
    sayable: Sayable | None = None


@exclusive
def understand(
    model: nn.Module,
    example_inputs: Any,
    data: Iterable[Any] | None,
    collect: Callable[[Any], Any] | None,
    *,
    ignore: Sequence[str],
    drop: Drop,
    strict: bool,
    config: bool = False,
    kv_cache: KVCache | None = None,
) -> Subject:
    """Capture and analyze; without example inputs, one sample of the data's first batch serves.

    Blocks that are counted instead of named stay: `fxprune.dropping` drops them once there are scores.
    """
    notes: tuple[str, ...] = ()
    if example_inputs is None and data is not None and isinstance(model, nn.Module):
        example_inputs, note = example_from(data, model, collect)
        notes = (note,)
    program = capture(model, example_inputs)
    program = with_kv_cache(model, replace(program, notes=(*notes, *program.notes)), kv_cache)
    whole = analyze_program(program, ignore=ignore, strict=strict)
    dropped = () if isinstance(drop, int | Depth) else choose_blocks(whole, drop)
    analysis = without_blocks(whole, dropped, ignore=ignore, strict=strict)
    found = find_sayable(model, whole).among(whole, analysis) if config else None
    return Subject(whole, dropped, analysis, (ignore,) if isinstance(ignore, str) else tuple(ignore), found)


def build(
    subject: Subject,
    scores: Scores,
    limits: Budget,
    making: Making,
    started: float,
    widths: Mapping[str, int] | None = None,
) -> SlimModule:
    """Search within the ranges of widths, unless they are given, then rewrite."""
    if widths is None:
        widths = search_for(subject, scores, limits, making)
    kept = keep_most_important(subject.analysis.groups, scores, widths)
    return rewrite(subject, scores, widths, kept, limits, making, started)


def decide(
    subject: Subject, scores: Scores, limits: Budget, making: Making, widths: Mapping[str, int] | None = None
) -> Plan:
    """Search within the ranges of widths, unless they are given, and nothing more: the plan."""
    if widths is None:
        widths = search_for(subject, scores, limits, making)
    kept = keep_most_important(subject.analysis.groups, scores, widths)
    cut = subject.analysis.cut(kept)
    return _plan(subject, cut, kept, widths, limits, scores.scorer, making.method(scores), making.seed)


@exclusive
def rewrite(
    subject: Subject,
    scores: Scores,
    widths: Mapping[str, int],
    kept: Mapping[str, NDArray[np.int64]],
    limits: Budget,
    making: Making,
    started: float,
) -> SlimModule:
    """Emit the slim module that keeps these indices, verify it and report."""
    whole, dropped, analysis = subject.whole, subject.dropped, subject.analysis
    cut = analysis.cut(kept)
    plan = _plan(subject, cut, kept, widths, limits, scores.scorer, making.method(scores), making.seed)
    emitted = slim_graph(analysis.program, analysis.propagation, cut)
    if kept or dropped:  # what keeps everything is equal to the last bit, and without a mask another kernel may run
        drop_idle_masks(emitted.graph, analysis.program.constants)
    drop_idle_views(emitted.graph, {**emitted.tensors, **emitted.constants})
    slim = assemble(analysis.program, emitted, plan, scores)
    error = _verify(whole, dropped, analysis, cut, slim) if making.verify else None
    notes = making.notes
    notes += tuple(f"{scores.scorer}: {count:,} {what}" for what, count in scores.effort.items())
    notes += () if subject.sayable is None else tuple(f"config: {line}" for line in str(subject.sayable).splitlines())
    if making.repairing is not None:
        given = making.repairing
        notes += repair(analysis, cut, slim, given.data, given.collect, whole=whole, dropped=dropped, seed=making.seed)
    if kept or dropped:
        lay_out(slim, slim.example_inputs if making.verify else None)
    original, seconds = whole.costs.original, time.perf_counter() - started
    outcome = Outcome(analysis, scores, widths, limits, making.method(scores), error, seconds, original, dropped, notes)
    attach_report(slim, make_report(outcome))
    return slim


def _verify(whole: Analysis, dropped: Sequence[Block], analysis: Analysis, cut: Cut, slim: SlimModule) -> float:
    """Largest relative error of what was dropped and of what was cut."""
    error = verify_drop(whole.program, dropped, analysis.program) if dropped else 0.0
    return max(error, verify_slim(analysis.program, analysis.propagation, cut, slim))


def choose_scorer(scorer: str | Scorer, scores: Scores | None, given: Mapping[str, object]) -> Scorer | None:
    """The scorer to run; None where scores are given.

    Args:
        scorer: "auto", a name or an object.
        scores: those of an earlier run.
        given: the model, and what the user gave of data, loss and score.
    """
    if scores is not None:
        if scorer != "auto":
            msg = "both scores= and scorer= are given; scores= replaces scoring, so leave scorer= out"
            raise InputError(msg)
        return None
    return find_scorer(fitting_scorer(given) if scorer == "auto" else scorer)


@exclusive
def score_subject(scorer: Scorer | None, scores: Scores | None, subject: Subject, context: Context) -> Scores:
    """The scores given, checked, or those of the scorer."""
    signature = signature_of(subject.whole.program)
    if scorer is None:
        return _check_given(scores, context, signature)
    check_needs(scorer, {"data": context.data, "loss": context.loss, "score": context.score})
    return replace(recall_scores(context.store, scorer.name, lambda: run_scorer(scorer, context)), signature=signature)


def _check_given(
    scores: Scores | None, context: Context, signature: Mapping[str, tuple[tuple[int, ...], str]]
) -> Scores:
    if not isinstance(scores, Scores):
        msg = f"scores is a {type(scores).__name__}; pass the scores of an earlier run, such as slim.scores, or a file"
        raise InputError(msg)
    if scores.signature and scores.signature != signature:
        msg = (
            f"scores= belongs to another model: {difference(scores.signature, signature)}. Leave it out to score again"
        )
        raise InputError(msg)
    try:
        check_scores(scores, context.groups)
    except PluginError as error:
        msg = f"scores= belongs to another model: {error}. Leave scores= out to score again"
        raise InputError(msg) from None
    return scores


def search_for(
    subject: Subject, scores: Scores, limits: Budget, making: Making, costs: Costs | None = None
) -> dict[str, int]:
    """Width of every group, within the budget.

    Args:
        subject: what is pruned.
        scores: what its indices are worth.
        limits: all have to hold.
        making: ranges of widths, and the method.
        costs: what any widths cost, by all metrics that are limited; None for the analysis's own.

    Raises:
        InfeasibleBudget: the narrowest widths do not meet a limit.
    """
    analysis, method = subject.analysis, making.method(scores)
    choices, ties = options_for(subject, scores, making)
    joint = any(len(tie.groups) > 1 for tie in ties) and all(
        group.name in scores.sensitivity for group in analysis.groups
    )
    try:
        if making.fast and costs is None and method == DEFAULT_SEARCH and not ties and "flops" in limits.limits:
            roofline = find_roofline(analysis.program, analysis.propagation, analysis.groups)
            timed = FurtherCosts(analysis.costs, ROOFLINE, roofline.times)
            return search_fast(timed, limits.limits, choices, ROOFLINE)
        return search_widths(costs or analysis.costs, limits.limits, choices, method, ties, joint=joint)
    except InfeasibleBudget as error:
        smallest = {each.group: int(each.widths[0]) for each in choices}
        msg = f"{error}\n{what_holds(analysis, smallest)}"
        raise InfeasibleBudget(msg, error.shortfalls) from None


def roomier_than(
    subject: Subject, scores: Scores, limits: Budget, making: Making, costs: Costs, widths: Mapping[str, int]
) -> dict[str, int] | None:
    """Widths within a budget of time that keep more parameters than those of least loss, and lose about as little.

    None where there are none; where parameters or memory are limited as well, or widths are not chosen one by one, none are
    looked for.

    Raises:
        InfeasibleBudget: the narrowest widths do not meet a limit.
    """
    choices, ties = options_for(subject, scores, making)
    if making.method(scores) != DEFAULT_SEARCH or ties or {"params", "memory"} & limits.limits.keys():
        return None
    return search_roomy(costs, limits.limits, choices, widths)


def options_for(subject: Subject, scores: Scores, making: Making) -> tuple[list[Choices], tuple[Tie, ...]]:
    """What the search chooses from: the candidate widths of every group, and which groups go together."""
    analysis, sayable = subject.analysis, subject.sayable
    kinds = find_kinds(analysis) if making.method(scores) == "uniform" and sayable is None else ()
    ties = tuple(Tie(kind.groups, kind.size) for kind in kinds) if sayable is None else sayable.ties
    ranges = tied_ranges(making.ranges, kinds)
    candidates = {} if sayable is None else sayable.candidates(analysis.groups, ranges, scores.whole)
    return choices_of(analysis, scores, ranges, candidates), ties


def choices_of(
    analysis: Analysis,
    scores: Scores,
    ranges: Mapping[str, Range],
    candidates: Mapping[str, NDArray[np.int64]] = MappingProxyType({}),
) -> list[Choices]:
    """The candidate widths of every group, those given or those of its range; one for groups that keep theirs."""
    return [
        build_choices(
            group.name,
            group.size,
            scores.importance[group.name],
            step=ranges[group.name].step,
            floor=group.size if group.name in scores.whole else ranges[group.name].floor,
            sensitivity=scores.sensitivity.get(group.name),
            consumers=group.consumers,
            widths=candidates.get(group.name),
        )
        for group in analysis.groups
    ]


def _plan(
    subject: Subject,
    cut: Cut,
    kept: Mapping[str, NDArray[np.int64]],
    widths: Mapping[str, int],
    limits: Budget,
    scorer: str,
    method: str,
    seed: int,
) -> Plan:
    """The decision as data."""
    analysis = subject.analysis
    return Plan(
        kept=kept_lists(kept),
        slices=slices_of(analysis.program, analysis.propagation, cut),
        widths=widths_of(analysis.groups, widths),
        ignore=subject.ignore,
        dropped=tuple(block.name for block in subject.dropped),
        budget=dict(limits.stated),
        scorer=scorer,
        search=method,
        seed=seed,
        signature=signature_of(subject.whole.program),
        versions={"fxprune": __version__, "torch": str(torch.__version__)},
        tied=dict(subject.whole.program.aliases),
        unsaved=tuple(sorted(subject.whole.program.transient)),
    )
