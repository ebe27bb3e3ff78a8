"""The tables of the quality benchmark: who is ahead where, and every method's figures, as mean and deviation over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, TypeAlias

from benchmarks.quality_plan import BUDGETS, FXPRUNE, METHODS, NETWORKS, Method, Scale, method

Line: TypeAlias = Mapping[str, Any]

RIGHT_AFTER = "right after pruning"
"""A method's better one of its accuracies as pruned and with recalibrated BatchNorm."""

NEEDS = {"weights": "weights", "images": "images", "labels": "images, labels"}


@dataclass(slots=True)
class Row:
    """One variant of one method on one network at one budget.

    Attributes:
        method: which.
        reconstruct: the variant with reconstruction.
        values: figure -> seed -> value; the figures are accuracies by stage, and "flops", "params", "seconds".
    """

    method: Method
    reconstruct: bool
    values: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.method.name}{' + reconstruct' if self.reconstruct else ''}"

    @property
    def needs(self) -> str:
        """What it looks at; reconstruction looks at images."""
        return "images" if self.reconstruct and self.method.needs == "weights" else self.method.needs

    def add(self, line: Line) -> None:
        """Take over a result."""
        figures = {**line["accuracy"], "flops": line["flops"], "params": line["params"]}
        figures[RIGHT_AFTER] = max(line["accuracy"]["pruned"], line["accuracy"]["recalibrated"])
        figures["seconds"] = line["seconds"]["prune"]
        for name, value in figures.items():
            self.values.setdefault(name, {})[line["seed"]] = value

    def mean(self, figure: str) -> float:
        """Mean over seeds."""
        return fmean(self.values[figure].values())


@dataclass(frozen=True, slots=True)
class Results:
    """What is known, in the order of the tables.

    Attributes:
        trained: network -> seed -> line of the trained network.
        rows: network and budget -> rows.
        failures: lines of what failed.
        stages: names of the stages of accuracy.
    """

    trained: dict[str, dict[int, Line]]
    rows: dict[tuple[str, float], list[Row]]
    failures: list[Line]
    stages: tuple[str, ...]

    def networks(self) -> list[str]:
        """Networks with any result."""
        return [each.name for each in NETWORKS if each.name in self.trained]


def collect(lines: Sequence[Line], scale: Scale) -> Results:
    """Sort results into rows."""
    trained: dict[str, dict[int, Line]] = {}
    rows: dict[tuple[str, float], dict[tuple[str, bool], Row]] = {}
    good = [each for each in lines if each["status"] == "ok"]
    for line in good:
        if line["stage"] == "train":
            trained.setdefault(line["network"], {})[line["seed"]] = line
        elif line["stage"] == "prune":
            known = rows.setdefault((line["network"], line["budget"]), {})
            key = (line["method"], line["reconstruct"])
            known.setdefault(key, Row(method(line["method"]), line["reconstruct"])).add(line)
    failures = [each for each in lines if each["status"] != "ok"]
    ordered = {where: sorted(found.values(), key=_order) for where, found in rows.items()}
    return Results(trained, ordered, failures, tuple(f"{epochs} epochs" for epochs in scale.tuning))


def _order(row: Row) -> tuple[int, bool]:
    return METHODS.index(row.method), row.reconstruct


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and, of several, the standard deviation."""
    if not values:
        return ""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{deviation}"


def best(rows: Sequence[Row], figure: str, *, ours: bool) -> Row | None:
    """The row of fxprune, or of the others, with the highest mean, of those that have the most seeds."""
    found = [each for each in rows if (each.method.library == FXPRUNE) == ours and figure in each.values]
    return max(found, key=lambda each: (len(each.values[figure]), each.mean(figure)), default=None)


def difference(first: Row, second: Row, figure: str) -> list[float]:
    """By how much the first is ahead, seed by seed: both pruned the same trained networks."""
    seeds = sorted(first.values[figure].keys() & second.values[figure].keys())
    return [first.values[figure][seed] - second.values[figure][seed] for seed in seeds]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison(results: Results) -> Iterator[list[str]]:
    """Who is ahead: a row for every network, budget and stage."""
    for network in results.networks():
        for budget in BUDGETS:
            rows = results.rows.get((network, budget), [])
            for stage in (RIGHT_AFTER, *results.stages):
                ours, theirs = best(rows, stage, ours=True), best(rows, stage, ours=False)
                if ours is None or theirs is None:
                    continue
                ahead = difference(ours, theirs, stage)
                cells = [f"{spread(list(each.values[stage].values()))} ({each.name})" for each in (ours, theirs)]
                yield [f"{network}, {budget:.0%}", stage, *cells, spread(ahead)]


def unlabelled(results: Results) -> Iterator[list[str]]:
    """What fxprune keeps of the unpruned accuracy right after pruning, without labels: its best such row."""
    for network in results.networks():
        for budget in BUDGETS:
            rows = [each for each in results.rows.get((network, budget), []) if each.needs != "labels"]
            found = best(rows, RIGHT_AFTER, ours=True)
            if found is None:
                continue
            whole = {seed: line["accuracy"] for seed, line in results.trained[network].items()}
            values = found.values[RIGHT_AFTER]
            kept = [100 * value / whole[seed] for seed, value in values.items() if seed in whole]
            unpruned = spread(list(whole.values()))
            yield [f"{network}, {budget:.0%}", found.name, unpruned, spread(list(values.values())), f"{spread(kept)} %"]


def details(results: Results, network: str, budget: float) -> str:
    """Every method on one network at one budget; the best of fxprune and of the others in bold."""
    rows = results.rows.get((network, budget), [])
    stages = ("pruned", "recalibrated", *results.stages)
    leaders = {(row.name, stage) for stage in stages for ours in (True, False) if (row := best(rows, stage, ours=ours))}
    cells = []
    for row in rows:
        shown = [spread(list(row.values.get(stage, {}).values())) for stage in stages]
        marked = [
            f"**{text}**" if (row.name, stage) in leaders else text for stage, text in zip(stages, shown, strict=True)
        ]
        cost = [f"{100 * row.mean('flops'):.1f} %", f"{100 * row.mean('params'):.1f} %"]
        cells.append([row.name, NEEDS[row.needs], *cost, *marked, f"{row.mean('seconds'):.1f}"])
    return table(["method", "looks at", "FLOPs", "params", "as pruned", "BN recalibrated", *stages[2:], "s"], cells)
