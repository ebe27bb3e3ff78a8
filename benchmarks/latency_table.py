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
    """A table for each device and share: a line for each cell, a column for each variant."""
    lines = ["# Latency at equal FLOPs", ""]
    for share in dict.fromkeys((row["device"], row["share"]) for row in rows):
        own = [row for row in rows if (row["device"], row["share"]) == share]
        lines += [*_section(own, *share), ""]
    return "\n".join(lines).rstrip()


def _section(rows: Sequence[Row], device: str, share: float) -> list[str]:
    variants = list(dict.fromkeys(row["variant"] for row in rows if row["variant"] != "original"))
    machines = sorted({row["machine"] for row in rows if row["machine"]})
    lines = [f"## {device}, {share:.0%}", "", *(f"- {each}" for each in machines), ""]
    lines += [
        "Speed-up over the original, with its 95 % interval; the original's median in milliseconds.",
        "",
        f"| model | dtype | backend | batch | original, ms | {' | '.join(variants)} |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(variants),
    ]
    for cell in dict.fromkeys(tuple(row[name] for name in KEY[2:]) for row in rows):
        own = {row["variant"]: row for row in rows if tuple(row[name] for name in KEY[2:]) == cell}
        median = own.get("original", {}).get("median_ms")
        shown = "-" if median is None else f"{median:.4g}"
        lines.append(f"| {' | '.join(map(str, cell))} | {shown} | {' | '.join(_cell(own.get(v)) for v in variants)} |")
    return [*lines, "", *_shares(rows, variants)]


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row["speedup"] is None:
        return "failed" if row["error"] else "-"
    return f"{row['speedup']:.2f} ({row['speedup_low']:.2f} .. {row['speedup_high']:.2f})"


def _shares(rows: Sequence[Row], variants: Sequence[str]) -> list[str]:
    """What share of FLOPs and of parameters each variant keeps."""
    lines = [
        "FLOPs and parameters kept:",
        "",
        f"| model | {' | '.join(variants)} |",
        "| --- |" + " --- |" * len(variants),
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        known = {row["variant"]: row for row in rows if row["model"] == model and row["flops_share"] is not None}
        cells = [
            f"{known[v]['flops_share']:.1%}, {known[v]['params_share']:.1%}" if v in known else "-" for v in variants
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


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
            axis.bar(places, [known.get(cell) or 0 for cell in cells], 0.8 / len(variants), label=variant)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(cells)), [f"{backend} {batch}" for backend, batch in cells], fontsize=8)
        axis.set_title(f"{panel[2]}, {panel[3]}, {panel[0]}, {panel[1]:.0%}", fontsize=9)
        axis.set_ylabel("speed-up")
    axes[0, 0].legend(fontsize=7, ncols=len(variants))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
