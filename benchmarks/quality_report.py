"""The texts around the tables of the quality benchmark: quality.md, and the same figures as quality.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.quality_plan import BUDGETS, Scale
from benchmarks.quality_table import (
    RIGHT_AFTER,
    Line,
    Results,
    Row,
    collect,
    comparison,
    details,
    spread,
    table,
    unlabelled,
)

EVERYTHING = "## Every method"


def report(lines: Sequence[Line], scale: Scale) -> tuple[str, dict[str, Any]]:
    """The text of quality.md, and the content of quality.json."""
    results = collect(lines, scale)
    return "\n\n".join(_parts(lines, results, scale)) + "\n", _figures(lines, results)


def summary(text: str) -> str:
    """What is printed: the text without the tables of every method."""
    return text.partition(EVERYTHING)[0]


def _parts(lines: Sequence[Line], results: Results, scale: Scale) -> Iterator[str]:
    yield "# Quality at equal FLOPs"
    yield f"Measured by `python benchmarks/quality.py` on {_machines(lines)}, with {_versions(lines)}."
    yield _method(scale)
    yield "## Who is ahead"
    yield (
        f"The best of fxprune and of the other libraries at every budget and stage, test accuracy in %. *{RIGHT_AFTER}* "
        "is the better of a method's accuracies as pruned and with recalibrated BatchNorm; *ahead* is the mean and the "
        "deviation of the differences seed by seed."
    )
    yield table(["network, FLOPs", "stage", "fxprune's best", "best of the others", "ahead"], list(comparison(results)))
    yield "## Right after pruning, without labels"
    head = ["network, FLOPs", "fxprune's best without labels", "unpruned", "accuracy", "kept"]
    yield table(head, list(unlabelled(results)))
    yield EVERYTHING
    for network in results.networks():
        yield _network(results, network)
        for budget in BUDGETS:
            yield f"At {budget:.0%} of the FLOPs:"
            yield details(results, network, budget)
    if results.failures:
        yield "## What failed"
        yield table(["what", "why"], [_failure(each) for each in results.failures])


def _method(scale: Scale) -> str:
    lengths = " and ".join(map(str, scale.tuning))
    return (
        f"Mean ± standard deviation over {len(scale.seeds)} training seeds. All methods prune the same trained networks; "
        "FLOPs are counted by `torch.utils.flop_counter` for all, and none is over its budget. Fine-tuning is the same for "
        "all: half of training's learning rate, a cosine to nothing, from the pruned network with recalibrated BatchNorm; "
        f"{lengths} epochs are runs of their own. *s* are seconds of pruning, while other processes shared the GPU."
    )


def _network(results: Results, name: str) -> str:
    found = list(results.trained[name].values())
    first = found[0]
    return (
        f"### {name}\n\nUnpruned: {spread([each['accuracy'] for each in found])} %, {first['params'] / 1e6:.2f} million "
        f"parameters, {first['flops'] / 1e6:.1f} MFLOPs."
    )


def _failure(line: Line) -> list[str]:
    share = f", {line['budget']:.0%}{' + reconstruct' if line['reconstruct'] else ''}" if "budget" in line else ""
    why = f"{line['failure']['type']}: {line['failure']['message']}".replace("|", "/")
    return [f"{line['network']}, seed {line['seed']}, {line['method'] or line['stage']}{share}", why]


def _machines(lines: Sequence[Line]) -> str:
    return "; ".join(sorted({each["machine"] for each in lines if "machine" in each})) or "no machine yet"


def _versions(lines: Sequence[Line]) -> str:
    found = {f"{name} {version}" for each in lines for name, version in each.get("versions", {}).items()}
    return ", ".join(sorted(found)) or "nothing yet"


def _figures(lines: Sequence[Line], results: Results) -> dict[str, Any]:
    """Everything in the tables as numbers."""
    rows = [
        {"network": network, "budget": budget, "method": row.name, "looks at": row.needs, **_numbers(row)}
        for (network, budget), found in results.rows.items()
        for row in found
    ]
    trained = {
        network: _mean_and_deviation([each["accuracy"] for each in found.values()])
        for network, found in results.trained.items()
    }
    return {
        "machine": _machines(lines),
        "versions": _versions(lines),
        "unpruned": trained,
        "pruned": rows,
        "failures": [dict(each) for each in results.failures],
    }


def _numbers(row: Row) -> dict[str, Any]:
    return {figure: _mean_and_deviation(list(values.values())) for figure, values in row.values.items()}


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float | int | None]:
    deviation = round(stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(fmean(values), 4), "deviation": deviation, "seeds": len(values)}
