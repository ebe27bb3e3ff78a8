"""The front of a sweep: what each budget gives, which points no other beats, as a table, CSV and plot."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fxprune.budget import format_amount
from fxprune.errors import InputError
from fxprune.plan import Plan
from fxprune.slim_module import SlimModule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

Stated = str | float | Mapping[str, str | float]
CHART_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Point:
    """What one budget gives.

    Attributes:
        budget: as the user stated it.
        before: FLOPs, parameters and memory of the original.
        after: the same of the slim module; None where the budget cannot be met.
        score: of the slim module, higher is better; None without a `score` function.
        plan: what is kept; None where the budget cannot be met.
        slim: the module; None where the budget cannot be met.
        reason: why the budget cannot be met; empty where it can.
    """

    budget: Stated
    before: Mapping[str, float]
    after: Mapping[str, float] | None = None
    score: float | None = None
    plan: Plan | None = None
    slim: SlimModule | None = field(default=None, repr=False)
    reason: str = ""

    @property
    def name(self) -> str:
        """The budget in one line."""
        if isinstance(self.budget, Mapping):
            return ", ".join(f"{metric} {value}" for metric, value in self.budget.items())
        return str(self.budget)

    def share(self, metric: str) -> float | None:
        """What is left of a metric, from 0 to 1; None where the budget cannot be met."""
        return None if self.after is None else self.after[metric] / self.before[metric] if self.before[metric] else 1.0


@dataclass(frozen=True, slots=True)
class Front:
    """All points of a sweep, in the order of the budgets.

    Attributes:
        points: one for each budget, also for those that cannot be met.
        original: the score of the original; None without a `score` function.
    """

    points: tuple[Point, ...]
    original: float | None = None

    @property
    def best(self) -> tuple[Point, ...]:
        """The Pareto-optimal points: no other has at most as many FLOPs and at least the score, one of them better.

        Of points alike in both the first counts. Without scores there is nothing to compare, and this is empty.
        """
        costs = [
            (point.after["flops"], -point.score, at)
            for at, point in enumerate(self.points)
            if point.after is not None and point.score is not None
        ]
        chosen: list[int] = []
        reached = math.inf
        for _, loss, at in sorted(costs):  # by rising FLOPs each must score higher than all before
            if loss < reached:
                chosen, reached = [*chosen, at], loss
        return tuple(self.points[at] for at in sorted(chosen))

    def __rich__(self) -> Table:
        """A table for a terminal; Pareto-optimal points have a star."""
        from rich.table import Table

        title = "Sweep" if self.original is None else f"Sweep: the original scores {self.original:.4g}"
        caption = "" if self.original is None else "* Pareto-optimal: no other point has fewer FLOPs and scores as high"
        table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("budget", overflow="fold")
        for heading in ("FLOPs", "left", "parameters", "left", "memory", "left", "score", ""):
            table.add_column(heading, justify="right", no_wrap=bool(heading))
        best = {id(point) for point in self.best}
        for point in self.points:
            table.add_row(point.name, *_cells(point, starred=id(point) in best))
        return table

    def __str__(self) -> str:
        """The table as plain text, 110 columns wide, and the reasons of budgets that cannot be met."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=110, color_system=None, force_terminal=False)
        console.print(self)
        assert isinstance(console.file, io.StringIO)
        reasons = [f"{point.name}: {point.reason}" for point in self.points if point.reason]
        return "\n".join([console.file.getvalue().rstrip(), *reasons])

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one row for each budget; numbers are absolute and exact.

        Raises:
            BackendError: there can be no such file.
        """
        from fxprune.backends.atomic import replacing

        with replacing(Path(path)) as made, made.open("w", newline="", encoding="utf-8") as file:
            writer, best = csv.writer(file), {id(point) for point in self.best}
            metrics = list(self.points[0].before) if self.points else []
            writer.writerow(["budget", *metrics, *(f"{each}_share" for each in metrics), "score", "best", "reason"])
            for point in self.points:
                after = [point.after[each] if point.after else "" for each in metrics]
                shares = [share if (share := point.share(each)) is not None else "" for each in metrics]
                score = "" if point.score is None else point.score
                reason = " ".join(point.reason.split())
                writer.writerow([point.name, *after, *shares, score, int(id(point) in best), reason])
        return Path(path)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the score over what is left of the FLOPs to a picture, .png, .svg or .pdf.

        Raises:
            InputError: there are no scores, matplotlib is missing, or the suffix is another.
            BackendError: there can be no such file.
        """
        from fxprune.backends.atomic import replacing

        if Path(path).suffix.lower() not in CHART_SUFFIXES:
            msg = f"{path} does not end in one of {', '.join(CHART_SUFFIXES)}"
            raise InputError(msg)
        if all(point.score is None for point in self.points):
            msg = "there is no score to draw: sweep with score=, or choose budgets that can be met"
            raise InputError(msg)
        with replacing(Path(path)) as made:
            _draw(self, made)
        return Path(path)


def _cells(point: Point, *, starred: bool) -> list[str]:
    if point.after is None:
        return ["cannot be met", *[""] * 7]
    cells = []
    for metric in ("flops", "params", "memory"):
        amount = format_amount(metric, point.after[metric])
        share = point.share(metric)
        cells += [amount.replace(" FLOPs", "").replace("FLOPs", "").replace(" parameters", ""), f"{share:.1%}"]
    return [*cells, "" if point.score is None else f"{point.score:.4g}", "*" if starred else ""]


def _draw(front: Front, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "drawing needs matplotlib: pip install matplotlib"
        raise InputError(msg) from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    _draw_points(front, axes)
    axes.set_xlabel("FLOPs left (%)")
    axes.set_ylabel("score")
    axes.margins(0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _draw_points(front: Front, axes: Axes) -> None:
    best = sorted(front.best, key=_cost)
    others = [each for each in front.points if each.score is not None and not any(each is other for other in best)]
    if front.original is not None:
        axes.axhline(front.original, color="0.5", linestyle="--", linewidth=1, label="original")
    axes.plot([_cost(each) for each in best], [each.score or 0.0 for each in best], "o-", label="Pareto-optimal")
    if others:
        axes.plot(
            [_cost(each) for each in others], [each.score or 0.0 for each in others], "x", color="0.4", label="other"
        )
    for point in (*best, *others):
        axes.annotate(
            point.name, (_cost(point), point.score or 0.0), (4, -11), textcoords="offset points", size=8, color="0.3"
        )


def _cost(point: Point) -> float:
    share = point.share("flops")
    assert share is not None
    return 100 * share
