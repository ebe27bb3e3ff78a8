"""Tables, CSV and plots of the latency benchmark, from its records: the last record of a cell counts, variant by variant."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEY = ("device", "share", "model", "dtype", "backend", "batch")
COLUMNS = (
    *KEY,
    "variant",
    "flops_share",
    "params_share",
    "median_ms",
    "low_ms",
    "high_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "items_per_s",
    "peak_bytes",
    "settled",
    "machine",
    "error",
)
Row = dict[str, Any]


def write_tables(records: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Write `latency.csv`, `.json`, `.md` and, with matplotlib, `.png`; returns the markdown."""
    rows = rows_of(records)
    if not rows:
        return "nothing is measured yet"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "latency.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "latency.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = markdown(rows)
    (out / "latency.md").write_text(text + "\n")
    _plot(rows, out / "latency.png")
    return text


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row for each variant of each cell; later records replace earlier ones."""
    found: dict[tuple[Any, ...], Row] = {}
    for record in records:
        for variant, latency in record["latencies"].items():
            key = {name: record[name] for name in KEY}
            found[(*key.values(), variant)] = _row({**key, "variant": variant}, record["facts"], latency)
    return sorted(found.values(), key=lambda row: [str(row[name]) if name != "batch" else row[name] for name in KEY])


def _row(key: Row, facts: Mapping[str, Any], latency: Mapping[str, Any]) -> Row:
    known = facts.get(key["variant"], {})
    row = {**dict.fromkeys(COLUMNS), **key, "flops_share": known.get("flops"), "params_share": known.get("params")}
    if "median_s" not in latency:
        return {**row, "error": latency.get("error") or known.get("error")}
    speedup = latency["speedup"] or {}
    versions = ", ".join(f"{name} {version}" for name, version in latency["versions"].items())
    return row | {
        **{f"{name}_ms": latency[f"{name}_s"] * 1e3 for name in ("median", "low", "high")},
        "speedup": speedup.get("median"),
        "speedup_low": speedup.get("low"),
        "speedup_high": speedup.get("high"),
        "items_per_s": latency["throughput"],
        "peak_bytes": latency.get("peak_bytes"),
        "settled": latency["settled"],
        "machine": f"{latency['device']}; {versions}",
    }


def markdown(rows: Sequence[Row]) -> str:
    """For each device and share the pairs at equal FLOPs, budgets of latency, and whatever else was measured."""
    lines = ["# Latency", ""]
    for device, share in dict.fromkeys((row["device"], row["share"]) for row in rows):
        own = [row for row in rows if (row["device"], row["share"]) == (device, share)]
        machines = sorted({row["machine"] for row in own if row["machine"]})
        lines += [f"## {device}, {share:.0%}", "", *(f"- {each}" for each in machines), ""]
        lines += [*_pairs(own), *_budgets(own, share), *_others(own), *_failures(own)]
    return "\n".join(lines).rstrip()


def _by_cell(rows: Sequence[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    """The rows of each cell by variant."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in KEY[2:]), {})[row["variant"]] = row
    return found


def _pairs(rows: Sequence[Row]) -> list[str]:
    """Each of Torch-Pruning's variants, and fxprune at its FLOPs or fewer."""
    shown, ahead = [], []
    for cell, own in _by_cell(rows).items():
        for name in own:
            pair = own.get(f"fxprune@{name}")
            if pair is not None:
                shown.append(f"| {' | '.join(map(str, cell))} | {name} | {_both(own, own[name], pair)} |")
                ahead += [_ratio(pair, own[name])]
    if not shown:
        return []
    known = [each for each in ahead if each is not None]
    slower = [row for row in rows if row["variant"].startswith("fxprune") and (row["speedup"] or 1) < 1]
    return [
        "### At equal FLOPs",
        "",
        "Speed-up over the original with its 95 % interval. `fxprune@` is compiled to the FLOPs that the Torch-Pruning",
        "variant beside it really has, or fewer; the last column is how much faster it is than that.",
        "",
        f"fxprune is faster than Torch-Pruning at its FLOPs in {sum(each > 1 for each in known)} of {len(known)} pairs, and "
        f"slower than the original in {len(slower)} of {sum(row['variant'].startswith('fxprune') for row in rows)} rows.",
        "",
        "| model | dtype | backend | batch | variant | original, ms | FLOPs | Torch-Pruning | FLOPs | fxprune | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *shown,
        "",
    ]


def _both(own: Mapping[str, Row], other: Row, pair: Row) -> str:
    ratio = _ratio(pair, other)
    last = "-" if ratio is None else f"{ratio:.2f}"
    return f"{_median(own)} | {_share(other)} | {_cell(other)} | {_share(pair)} | {_cell(pair)} | {last}"


def _ratio(pair: Row, other: Row) -> float | None:
    """How many times faster the first is, both over the original beside them."""
    found: float | None = pair["speedup"] / other["speedup"] if pair["speedup"] and other["speedup"] else None
    return found


def _budgets(rows: Sequence[Row], share: float) -> list[str]:
    shown = [
        f"| {' | '.join(map(str, cell))} | {row['variant']} | {_median(own)} | {row['median_ms']:.4g} | {_cell(row)} | "
        f"{_share(row)} | {row['params_share']:.1%} | {'yes' if 1 / row['speedup_low'] <= share else 'no'} |"
        for cell, own in _by_cell(rows).items()
        for row in own.values()
        if row["variant"].startswith("fxprune-latency") and row["speedup"] is not None
    ]
    if not shown:
        return []
    return [
        f"### A budget of {share:.0%} of the latency",
        "",
        "Met where the lower end of the speed-up's 95 % interval says so. After a colon: the backend that it was compiled for.",
        "",
        "| model | dtype | backend | batch | variant | original, ms | slim, ms | speed-up | FLOPs | parameters | met |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *shown,
        "",
    ]


def _others(rows: Sequence[Row]) -> list[str]:
    """Variants that are in no pair and have no budget of latency: a column for each."""
    names = {row["variant"] for row in rows}
    paired = {name for name in names if f"fxprune@{name}" in names or "@" in name}
    variants = sorted(each for each in names - paired - {"original"} if not each.startswith("fxprune-latency"))
    if not variants:
        return []
    lines = [
        "### At that share",
        "",
        f"| model | dtype | backend | batch | original, ms | {' | '.join(variants)} |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(variants),
    ]
    for cell, own in _by_cell(rows).items():
        if any(each in own for each in variants):
            cells = [f"{_cell(own.get(each))}, {_share(own.get(each))}" for each in variants]
            lines.append(f"| {' | '.join(map(str, cell))} | {_median(own)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _failures(rows: Sequence[Row]) -> list[str]:
    failed = [row for row in rows if row["error"]]
    shown = [f"- {'/'.join(str(row[name]) for name in KEY[2:])} {row['variant']}: {row['error']}" for row in failed]
    return ["### What could not be measured", "", *shown, ""] if shown else []


def _median(own: Mapping[str, Row]) -> str:
    median = own.get("original", {}).get("median_ms")
    return "-" if median is None else f"{median:.4g}"


def _share(row: Row | None) -> str:
    return "-" if row is None or row["flops_share"] is None else f"{row['flops_share']:.1%}"


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row["speedup"] is None:
        return "failed" if row["error"] else "-"
    return f"{row['speedup']:.2f} ({row['speedup_low']:.2f} .. {row['speedup_high']:.2f})"


def _style(variant: str, variants: Sequence[str]) -> dict[str, Any]:
    """One colour for a variant of Torch-Pruning, pale, and fxprune at its FLOPs, full."""
    others = [each.removeprefix("fxprune@") for each in variants if each != "fxprune"]
    other = variant.removeprefix("fxprune@")
    hue = 0 if variant == "fxprune" else 1 + list(dict.fromkeys(others)).index(other)
    return {"color": f"C{hue}", "alpha": 1.0 if variant.startswith("fxprune") else 0.4}


def _plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of the speed-ups, a panel for each model and dtype."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((row["device"], row["share"], row["model"], row["dtype"]) for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows if row["variant"] != "original"))
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(12, 2.6 * len(panels)), squeeze=False)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        own = [row for row in rows if (row["device"], row["share"], row["model"], row["dtype"]) == panel]
        cells = list(dict.fromkeys((row["backend"], row["batch"]) for row in own))
        for at, variant in enumerate(variants):
            known = {(row["backend"], row["batch"]): row["speedup"] for row in own if row["variant"] == variant}
            places = [index + 0.8 * (at - len(variants) / 2) / len(variants) for index in range(len(cells))]
            heights = [known.get(cell) or 0 for cell in cells]
            axis.bar(places, heights, 0.8 / len(variants), label=variant, **_style(variant, variants))
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(cells)), [f"{backend} {batch}" for backend, batch in cells], fontsize=8)
        axis.set_title(f"{panel[2]}, {panel[3]}, {panel[0]}, {panel[1]:.0%}", fontsize=9)
        axis.set_ylabel("speed-up")
    axes[0, 0].legend(fontsize=7, ncols=len(variants))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
