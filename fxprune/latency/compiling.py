"""Compiling to a budget of time: the latency model, the closed loop, and what the report says of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.backends.base import why_not_runnable
from fxprune.backends.examples import batch_size_of
from fxprune.backends.measure import Timing
from fxprune.backends.registry import get_backend
from fxprune.budget import Budget
from fxprune.distributed import world
from fxprune.errors import BackendError, InfeasibleBudget, InputError
from fxprune.grid import GRID
from fxprune.latency.budget import TimeBudget, split_times
from fxprune.latency.closing import Bracket, Candidate, Closing, close, make_room, tried
from fxprune.latency.costs import LATENCY, timed_costs
from fxprune.latency.estimating import fit_model
from fxprune.latency.learning import learn_align
from fxprune.latency.model import LatencyModel
from fxprune.latency.prepared import Effort, Prepared, prepare
from fxprune.latency.referee import appointed
from fxprune.latency.stopwatch import Stopwatch
from fxprune.planning import survey
from fxprune.pruning import Making, Subject, build, options_for, roomier_than, search_for
from fxprune.report import Metric
from fxprune.slim_module import SlimModule, attach_report
from fxprune.targets import KEY
from fxprune.widths import DEFAULT_ALIGN, FAST_NOTE, Align, Floor, relaxed_align, width_ranges

if TYPE_CHECKING:
    from fxprune.analysis import Analysis
    from fxprune.backends.base import Backend
    from fxprune.inputs import Inputs
    from fxprune.scores import Scores

DEFAULT_BACKEND = "eager"
MEASURING = Timing(warmup_calls=10, relative_width=0.015, budget_s=6.0)
FINAL_TRIES = 5
STEP_BACK = 0.015
"""What share the target is lowered by where the finished module does not hold what its like held; twice it the next time."""


@dataclass(frozen=True, slots=True)
class Timekeeping:
    """A budget of time, and how it is measured.

    Attributes:
        budget: what the user asked for; None where widths are only kept to what the backend computes fast.
        backend: where latency is measured.
        options: of the backend.
        effort: of the latency model.
        timing: of candidates.
    """

    budget: TimeBudget | None
    backend: Backend
    options: Mapping[str, Any] = field(default_factory=dict)
    effort: Effort = field(default_factory=Effort)
    timing: Timing = MEASURING


def usable_backend(name: str | Backend | None) -> Backend:
    """The backend that latency is measured on: a name, None for PyTorch itself, or an object that is one.

    Raises:
        BackendError: there is none of that name, or it cannot run models here.
    """
    backend = get_backend(name or DEFAULT_BACKEND) if isinstance(name, str) or name is None else name
    reason = why_not_runnable(backend)
    if reason is not None:
        raise BackendError(f"latency cannot be measured on backend {backend.name!r}: {reason}")
    return backend


def times_of(
    budget: Any,
    subject: Subject,
    backend: str | Backend | None,
    options: Mapping[str, Any] | None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Timekeeping | None, Any]:
    """The budget of time among what the user asked for, with where it is measured, and the rest of the budget.

    Raises:
        BudgetError: a time is no amount.
        BackendError: the backend cannot be used.
        InputError: there are options and no backend, or several processes.
    """
    program = subject.whole.program
    wanted, rest = split_times(budget, batch_size_of((program.args, dict(program.kwargs))))
    if wanted is not None and world()[1] > 1:
        msg = (
            "a budget of latency or throughput is met by measuring, which several processes would do each with its own "
            "result: compile in one process, fxprune.save the slim module, and fxprune.load it in all"
        )
        raise InputError(msg)
    if options is not None and backend is None:
        msg = 'backend_options= are of a backend, and there is none: pass, for example, backend="onnxruntime"'
        raise InputError(msg)
    if wanted is None and backend is None:
        return None, rest
    effort = Effort(seed=seed, progress=progress)
    return Timekeeping(wanted, usable_backend(backend), dict(options or {}), effort), rest


def refuse_widths(times: Timekeeping | None, method: str | None) -> None:
    """There is nothing to adjust where widths are given, by the budget's `config` or by a grid.

    Raises:
        InputError: they are, and there is a budget of time.
    """
    if times is not None and times.budget is not None and method in {GRID, KEY}:
        msg = (
            "a budget of time chooses widths until it holds, which exact widths (the budget's config) and search='grid' "
            "do not leave open: leave one of them out"
        )
        raise InputError(msg)


@dataclass(frozen=True, slots=True)
class Predictor:
    """What predicts latency, and the widths that it was found to be worth keeping to.

    Attributes:
        model: predicts.
        learnt: multiples by kind of fragment; empty where the user said them.
    """

    model: LatencyModel
    learnt: Mapping[str, int]


def keep_to_steps(
    model: nn.Module, subject: Subject, making: Making, times: Timekeeping, floor: Floor | None
) -> tuple[Making, str]:
    """Ranges of widths that the backend computes fast, learnt from measured times, and a note that says them.

    Raises:
        BackendError: the backend cannot run the model.
    """
    prepared = prepare(_fixed(model, subject), Stopwatch(times.backend, times.options), times.effort)
    learnt, align = _learnt(prepared)
    ranges = width_ranges(subject.analysis, align, floor)
    told = (FAST_NOTE,) if making.fast else ()
    return replace(making, ranges=ranges, notes=told), _multiples(learnt, f"{times.backend.name} on {prepared.device}")


def with_note(slim: SlimModule, note: str) -> SlimModule:
    """The module with one line more in its report."""
    attach_report(slim, replace(slim.report, notes=(*slim.report.notes, note)))
    return slim


def predicting(
    model: nn.Module, subject: Subject, making: Making, times: Timekeeping, align: Align | None, floor: Floor | None
) -> tuple[Predictor, Making]:
    """The latency model of what is to be pruned, at the sizes of its example inputs, and the ranges of widths to search.

    Widths are kept to what the user says (`align`), or else to multiples that are learnt from measured times.

    Raises:
        BackendError: the backend cannot run the model.
    """
    fixed = _fixed(model, subject)
    prepared = prepare(fixed, Stopwatch(times.backend, times.options), times.effort)
    learnt: Mapping[str, int] = {}
    if align is None:
        learnt, align = _learnt(prepared)
        making = replace(making, notes=())
    found = fit_model(prepared, width_ranges(fixed, align, floor), times.effort)
    return Predictor(found, learnt), replace(making, ranges=width_ranges(subject.analysis, align, floor))


def _fixed(model: nn.Module, subject: Subject) -> Analysis:
    """The analysis at the fixed sizes of the example inputs."""
    program = subject.whole.program
    dropped = [block.name for block in subject.dropped]
    fixed = survey(model, program.args or dict(program.kwargs), ignore=subject.ignore, drop=dropped).analysis
    if _sizes(fixed) != _sizes(subject.analysis):
        raise BackendError(
            "the model's groups are others where the batch size is fixed, as it is to predict latency; a budget of latency "
            "cannot be met for this model, nor alignment learnt: limit flops, without backend=, and measure with "
            "fxprune.bench"
        )
    return fixed


def _learnt(prepared: Prepared) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Multiples by kind of fragment, and by group, in the form of `align=`."""
    learnt, groups = learn_align(prepared, DEFAULT_ALIGN)
    sizes = _sizes(prepared.analysis)
    return learnt, {escape(name): max(multiple, relaxed_align(sizes[name])) for name, multiple in groups.items()}


def _multiples(learnt: Mapping[str, int], where: str) -> str:
    shown = ", ".join(f"{kind} {multiple}" for kind, multiple in learnt.items()) or "none"
    return f"multiples that widths are kept to, learnt from measured times of {where}: {shown}"


def _sizes(analysis: Analysis) -> dict[str, int]:
    return {group.name: group.size for group in analysis.groups}


def build_to_time(
    model: nn.Module,
    subject: Subject,
    scores: Scores,
    limits: Budget,
    making: Making,
    times: Timekeeping,
    predictor: Predictor,
    started: float,
) -> SlimModule:
    """Search, rewrite and measure until the budget of time holds, with all other limits.

    Raises:
        InfeasibleBudget: it cannot be met; says the fastest reached.
        BackendError: the backend cannot run a candidate.
    """
    wanted = times.budget
    assert wanted is not None, "nothing to close"
    costs = timed_costs(subject.analysis.costs, predictor.model)
    draft = replace(making, verify=False, repairing=None)
    inputs: Inputs = (subject.whole.program.args, dict(subject.whole.program.kwargs))
    with appointed(times.backend, times.options, model, inputs, times.timing) as referee:
        closing = Closing(
            budget=wanted,
            search=lambda target: search_for(subject, scores, _within(limits, wanted, target), making, costs),
            roomier=lambda target, widths: roomier_than(
                subject, scores, _within(limits, wanted, target), making, costs, widths
            ),
            narrowest={each.group: int(each.widths[0]) for each in options_for(subject, scores, making)[0]},
            predict=predictor.model.predict,
            build=lambda widths: build(subject, scores, _within(limits, wanted, 0.0), draft, started, widths),
            referee=referee,
        )
        original, _ = referee.measure(model)
        whole = predictor.model.predict(_sizes(subject.analysis))
        target = whole * wanted.limit(original.median_s) / original.median_s
        stated = _within(limits, wanted, wanted.limit(original.median_s))
        return _finished(
            closing, target, lambda widths: build(subject, scores, stated, making, started, widths), predictor
        )


def _finished(closing: Closing, target: float, make: Any, predictor: Predictor) -> SlimModule:
    """The finished module, verified and repaired, measured once more; where it fails, with a lower target."""
    rounds, known, back = 0, Bracket(), STEP_BACK
    for _ in range(FINAL_TRIES):
        found, count = close(closing, target, known)
        found, more = make_room(closing, found)
        rounds += count + more + 1
        slim: SlimModule = make(found.widths)
        final = tried(closing, found.target, found.widths, slim)
        if final.used <= 1:
            return _told(slim, final, closing, predictor, rounds)
        target, known, back = found.target * (1 - back), Bracket(broke=final), 2 * back
    msg = (
        f"the budget of time held for candidates and not for the finished module, {FINAL_TRIES} times: this machine's speed "
        f"drifts too much ({final.measured}). Measure on a quiet one, or ask for more time"
    )
    raise InfeasibleBudget(msg, {})


def _within(limits: Budget, wanted: TimeBudget, target: float) -> Budget:
    """All limits, with one on the predicted time."""
    return Budget({**limits.limits, LATENCY: target}, {**limits.stated, **wanted.stated})


def _told(slim: SlimModule, final: Candidate, closing: Closing, predictor: Predictor, rounds: int) -> SlimModule:
    """The module with its latency in the report."""
    limit = closing.budget.limit(final.original.median_s)
    before, after = final.original, final.measured
    assert after.speedup is not None
    model = predictor.model
    error = f", median error of predictions {model.error:.1%}" if len(model.held_out) else ""
    notes = [
        f"latency of {model.backend} on {after.device}: {after}, originally {before}, {after.speedup.median:.2f} times "
        f"faster [{after.speedup.low:.2f}, {after.speedup.high:.2f}]; predicted {final.predicted * 1e3:.4g} ms{error}; "
        f"{rounds} modules measured"
    ]
    if predictor.learnt:
        notes.append(_multiples(predictor.learnt, f"{model.backend} on {model.device}"))
    if model.refused:
        notes.append(f"not timed by themselves: {'; '.join(model.refused)}")
    metric = Metric(LATENCY, before.median_s, after.median_s, limit)
    report = slim.report
    attach_report(slim, replace(report, metrics=(*report.metrics, metric), notes=(*report.notes, *notes)))
    return slim
