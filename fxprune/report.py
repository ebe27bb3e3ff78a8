"""The report: before and after, per group what went and why, what is pinned and by what."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fxprune.analysis import Analysis
from fxprune.axes import Pin, leaves
from fxprune.blocks import Block
from fxprune.budget import Budget, format_amount
from fxprune.patterns import fold
from fxprune.plain import from_plain
from fxprune.safe_json import parse
from fxprune.scores import Scores

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


LONGEST = 2**26
"""Bytes that a report in a file may have."""


PEAK = "weights and peak activations"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a compilation found and decided."""

    analysis: Analysis
    scores: Scores
    widths: Mapping[str, int]
    budget: Budget
    search: str
    error: float | None
    seconds: float
    original: Mapping[str, float]
    dropped: tuple[Block, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One cost before and after, with the limit if the budget names it."""

    name: str
    before: float
    after: float
    limit: float | None


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What happened to one group.

    Attributes:
        name: the group.
        kind: what its indices are.
        before: original number of indices.
        after: kept number of indices.
        retained: share of the total importance that is kept.
        axes: number of parameter axes that lose the cut indices.
    """

    name: str
    kind: str
    before: int
    after: int
    retained: float
    axes: int


@dataclass(frozen=True, slots=True)
class DroppedBlock:
    """A block that went whole: its module, its class, and the parameters that went with it."""

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True, slots=True)
class PinnedAxes:
    """Axes that keep their size for one reason.

    Attributes:
        reason: why.
        operation: ATen operation that asks for it, or None.
        axes: names of the parameter axes, `name:dimension`.
        parameters: number of parameters on them.
    """

    reason: str
    operation: str | None
    axes: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a user should know about one compilation; `str()` is a table, `to_json()` the same as data.

    Attributes:
        model: class of the model.
        metrics: FLOPs, parameters and memory before and after.
        groups: every group of what remains, in the model's order.
        pinned: what cannot be cut and why, by the parameters that it holds.
        scorer: name of the scorer.
        search: name of the search method.
        error: largest relative error against the masked original; None where the check was skipped.
        seconds: duration of the whole compilation.
        notes: what the user should know: inferred inputs, a fixed batch size, operations without a rule.
        dropped: blocks that were dropped whole, in the model's order.
        memory: what is counted as memory.
    """

    model: str
    metrics: tuple[Metric, ...]
    groups: tuple[GroupChange, ...]
    pinned: tuple[PinnedAxes, ...]
    scorer: str
    search: str
    error: float | None
    seconds: float
    notes: tuple[str, ...]
    dropped: tuple[DroppedBlock, ...] = ()
    memory: str = PEAK

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read a report back.

        Raises:
            CheckpointError: the text is no report.
        """
        return from_plain(cls, parse(text, "the report", longest=LONGEST), "the report")

    def __rich__(self) -> RenderableType:
        """Tables for a terminal."""
        from rich.console import Group

        return Group(_metrics_table(self), _groups_table(self), _pinned_table(self), _closing(self))

    def __str__(self) -> str:
        """Tables as plain text, 110 columns wide."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=110, color_system=None, force_terminal=False)
        console.print(self)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().rstrip()


def make_report(outcome: Outcome) -> Report:
    """Sum up a compilation."""
    analysis = outcome.analysis
    row = np.array([[outcome.widths[group.name] for group in analysis.groups]], dtype=np.int64)
    after = analysis.costs.evaluate(row.reshape(1, -1))
    return Report(
        model=analysis.program.root.__name__,
        metrics=tuple(
            Metric(name, before, float(after[name][0]), outcome.budget.limits.get(name))
            for name, before in outcome.original.items()
        ),
        groups=tuple(_change(outcome, group.name) for group in analysis.groups),
        pinned=pinned_axes(analysis),
        scorer=outcome.scores.scorer,
        search=outcome.search,
        error=outcome.error,
        seconds=outcome.seconds,
        notes=(*analysis.program.notes, *_notes(analysis), *outcome.notes),
        dropped=tuple(DroppedBlock(block.name, block.kind, block.parameters) for block in outcome.dropped),
        memory=PEAK if analysis.program.cached is None else "weights and key/value cache",
    )


def _change(outcome: Outcome, name: str) -> GroupChange:
    group, width = outcome.analysis.group(name), outcome.widths[name]
    importance = np.sort(outcome.scores.importance[name], axis=-1)
    total = importance.sum()
    retained = float(importance[..., group.size - width :].sum() / total) if total > 0 else 1.0
    return GroupChange(name, group.kind, group.size, width, retained, len(group.members))


def pinned_axes(analysis: Analysis) -> tuple[PinnedAxes, ...]:
    """Parameter axes that keep their size, by reason, those that hold most parameters first; kernels are left out."""
    axes: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    held: dict[tuple[str, str | None], int] = defaultdict(int)
    program = analysis.program
    for name, own in analysis.propagation.tensors.items():
        if name not in program.tensors or name in program.buffers:
            continue
        reasons: dict[tuple[str, str | None], None] = {}
        for dim, axis in enumerate(own):
            pins = [leaf.pin for leaf in leaves(axis) if leaf.size > 1]
            if pins and all(pins):
                key = _key(pins)
                axes[key].append(f"{name}:{dim}")
                reasons[key] = None
        for key in reasons:
            held[key] += program.tensors[name].numel()
    found = [PinnedAxes(key[0], key[1], tuple(names), held[key]) for key, names in axes.items() if key[0] != "kernel"]
    return tuple(sorted(found, key=lambda each: -each.parameters))


def _key(pins: list[Pin | None]) -> tuple[str, str | None]:
    first = next(pin for pin in pins if pin is not None)
    operation = first.node.target if first.node is not None and first.node.op == "call_function" else None
    return first.reason, None if operation is None else str(operation)


def _notes(analysis: Analysis) -> list[str]:
    notes = []
    unknown = sorted({str(node.target) for node in analysis.propagation.unknown})
    if unknown:
        notes.append(f"operations without a rule, whose axes are pinned: {', '.join(unknown)}")
    if analysis.propagation.conflicts:
        first = analysis.propagation.conflicts[0]
        where = f" at {first.node.name} ({first.node.target})" if first.node is not None else ""
        notes.append(
            f"{len(analysis.propagation.conflicts)} pairs of axes could not be matched and are pinned, "
            f"the first: {first.left} against {first.right}{where}"
        )
    if analysis.program.lost_dropout:
        notes.append(
            f"dropout inside {_shorten(list(analysis.program.lost_dropout))} is not in the captured graph: training the slim "
            "module runs without it"
        )
    unreached = _unreached(analysis)
    if unreached:
        notes.append(f"never read by the captured forward, kept as they are: {_shorten(unreached)}")
    return notes


def _unreached(analysis: Analysis) -> list[str]:
    reached = analysis.program.reached()
    names = (name for name in analysis.program.tensors if name not in analysis.program.buffers)
    return [name for name in names if analysis.program.canonical(name) not in reached]


def _shorten(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def what_holds(analysis: Analysis, smallest: Mapping[str, int]) -> str:
    """What keeps a model from getting smaller than with every group at its smallest width: one line each."""
    pinned = pinned_axes(analysis)
    lines = [
        f"  {each.parameters:,} parameters on {_shorten(list(each.axes), 2)}: {each.reason}" for each in pinned[:4]
    ]
    floors = sorted(analysis.groups, key=lambda group: -smallest[group.name])[:3]
    kept = ", ".join(f"{group.name!r} at {smallest[group.name]} of {group.size}" for group in floors)
    if kept:
        more = ", ..." if len(analysis.groups) > len(floors) else ""
        lines.append(f"  floors and alignment: {kept}{more} (lower them with floor= and align=)")
    else:
        lines.insert(0, "  nothing of this model can be cut")
    return "\n".join(["What holds it there:", *lines])


def _metrics_table(report: Report) -> Table:
    from rich.table import Table

    table = Table(title=f"{report.model}: {report.search} on {report.scorer} scores", title_justify="left")
    for heading in ("", "before", "after", "kept", "budget"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for metric in report.metrics:
        share = f"{metric.after / metric.before:.1%}" if metric.before else ""
        limit = "" if metric.limit is None else f"≤ {format_amount(metric.name, metric.limit)}"
        amounts = (format_amount(metric.name, metric.before), format_amount(metric.name, metric.after))
        table.add_row(metric.name, *amounts, share, limit)
    return table


def _groups_table(report: Report) -> Table:
    from rich.table import Table

    cut = [group for group in report.groups if group.after < group.before]
    title = f"{len(cut)} of {len(report.groups)} groups cut"
    table = Table(title=title, title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("kind")
    for heading in ("before", "after", "importance kept", "axes"):
        table.add_column(heading, justify="right")
    for group in report.groups:
        kept = f"{group.retained:.1%}" if group.after < group.before else ""
        table.add_row(group.name, group.kind, str(group.before), str(group.after), kept, str(group.axes))
    return table


def _pinned_table(report: Report) -> Table:
    from rich.table import Table

    table = Table(title="Pinned: keeps its size", title_justify="left")
    table.add_column("reason")
    table.add_column("operation")
    table.add_column("axes", overflow="fold")
    table.add_column("parameters on it", justify="right")
    for each in report.pinned[:12]:
        table.add_row(each.reason, each.operation or "", _shorten(list(each.axes), 2), f"{each.parameters:,}")
    return table


def _closing(report: Report) -> str:
    silenced = "the dropped blocks bypassed and the cut parts silenced" if report.dropped else "the cut parts silenced"
    checked = (
        "not checked against the original (verify=False)"
        if report.error is None
        else f"checked against the original with {silenced}: largest relative error {report.error:.1e}"
    )
    lines = [
        *_dropped_lines(report),
        f"{checked}; {report.seconds:.1f} s",
        f"1 FLOP is one multiply or one add (twice the MACs that some tools report); memory: {report.memory}",
        *(f"note: {note}" for note in report.notes),
    ]
    return "\n".join(lines)


def _dropped_lines(report: Report) -> list[str]:
    return [
        f"dropped whole: {each.pattern} ({len(each.rows)} {each.rows[0].kind}, "
        f"{sum(block.parameters for block in each.rows):,} parameters)"
        for each in fold(report.dropped, name=lambda block: block.name, alike=lambda block: block.kind)
    ]


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return asdict(report)
