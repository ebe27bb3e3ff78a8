"""The tables of the coverage benchmark: a summary by source of the models, and one line for every model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Result: TypeAlias = Mapping[str, Any]
Results: TypeAlias = Mapping[str, Mapping[str, Result]]
"""Library -> model -> result."""

LIBRARIES = {"fxprune": "fxprune", "torch-pruning": "Torch-Pruning", "modelopt": "ModelOpt"}
Column: TypeAlias = tuple[str, Callable[[Result], bool | None]]
"""A heading, and whether a result counts; None leaves it out of the column."""


def _verdict(result: Result) -> str | None:
    verdict: str | None = result.get("oracle", {}).get("verdict")
    return verdict


def _agrees(result: Result) -> bool | None:
    return None if _verdict(result) in (None, "undefined", "not checked") else _verdict(result) == "agrees"


def _trains(result: Result) -> bool | None:
    return None if "trains" in result and result["trains"] is None else bool(result.get("trains"))


def _option(name: str) -> Callable[[Result], bool | None]:
    def counts(result: Result) -> bool | None:
        found = result.get(name)
        return None if found is None else bool(found["agrees"])

    return counts


HEADINGS = (
    *("model", "status", "FLOPs left", "error", "reference", "trains", "apply", "ONNX", "capture s", "analysis ms"),
    *("compile s", "nodes", "not cuttable", "peak MiB"),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "fxprune": (
        ("captured", lambda result: bool(result.get("captured"))),
        ("budget met", lambda result: bool(result.get("budget_met"))),
        ("error under 1e-4", lambda result: result.get("error") is not None and result["error"] <= 1e-4),
        ("reference agrees", _agrees),
        ("trains", _trains),
        ("apply agrees", _option("apply")),
        ("ONNX agrees", _option("onnx")),
        ("wrong", lambda result: result["status"] == "wrong"),
        ("**passes**", lambda result: result["status"] == "pass"),
    ),
    "torch-pruning": (
        ("runs", lambda result: result["status"] == "runs"),
        ("keeps its outputs", lambda result: bool(result.get("keeps_outputs"))),
        (
            "**runs and is right**",
            lambda result: result["status"] == "runs" and _verdict(result) in ("agrees", "undefined", "not checked"),
        ),
    ),
    "modelopt": (
        ("runs", lambda result: result["status"] in ("runs", "usable")),
        ("**usable**", lambda result: result["status"] == "usable"),
    ),
}


def counted(results: Mapping[str, Result]) -> dict[str, Result]:
    """Without the models that the installed libraries lack, or that do not run before anything is done to them."""
    return {name: result for name, result in results.items() if result["status"] not in ("unavailable", "broken")}


def summary(results: Results, sources: Mapping[str, str]) -> str:
    """Counts and percentages by source of the models, for every library."""
    parts = [_library_summary(library, counted(found), sources) for library, found in results.items() if found]
    return "\n\n".join([*parts, *_left_out(results), *_speed(results.get("fxprune", {}))])


def _library_summary(library: str, results: Mapping[str, Result], sources: Mapping[str, str]) -> str:
    columns = COLUMNS[library]
    rows = []
    for source in [*dict.fromkeys(sources[name] for name in results), "all"]:
        chosen = [result for name, result in results.items() if source in ("all", sources[name])]
        rows.append([source, str(len(chosen)), *(_share(chosen, counts) for _, counts in columns)])
    headings = [LIBRARIES[library], "models", *(heading for heading, _ in columns)]
    return f"{_table(headings, rows)}\n\n{LIBRARIES[library]}, outcomes: {_outcomes(results.values())}."


def _share(results: Sequence[Result], counts: Callable[[Result], bool | None]) -> str:
    answers = [answer for result in results if (answer := counts(result)) is not None]
    if not answers:
        return "n/a"
    of = "" if len(answers) == len(results) else f" of {len(answers)}"
    return f"{sum(answers)}{of} ({100 * sum(answers) / len(answers):.1f} %)"


def _outcomes(results: Iterable[Result]) -> str:
    statuses = [str(result["status"]) for result in results]
    return ", ".join(
        f"{statuses.count(status)} {status}" for status in sorted(set(statuses), key=lambda s: -statuses.count(s))
    )


def _left_out(results: Results) -> list[str]:
    """Names of the models that no column counts."""
    names = {
        name: f"{name} ({result['status']})"
        for found in results.values()
        for name, result in found.items()
        if result["status"] in ("unavailable", "broken")
    }
    return [f"Left out: {', '.join(names.values())}."] if names else []


def _speed(results: Mapping[str, Result]) -> list[str]:
    """Whether the analysis is linear: its time per node of the graph over all models."""
    per_node = {
        name: result["seconds"]["analysis"] / result["nodes"]
        for name, result in results.items()
        if "analysis" in result.get("seconds", {})
    }
    if not per_node:
        return []
    median = statistics.median(per_node.values())
    least, most = (choose(per_node, key=lambda name: per_node[name]) for choose in (min, max))
    largest = max(per_node, key=lambda name: int(results[name]["nodes"]))
    longest = max(per_node, key=lambda name: float(results[name]["seconds"]["analysis"]))
    beyond = [name for name, value in per_node.items() if not median / 3 <= value <= 3 * median]
    return [
        f"Analysis per graph node over {len(per_node)} models: median {median * 1e6:.0f} us, least "
        f"{per_node[least] * 1e6:.0f} us ({least}, {per_node[least] / median:.2f} times the median), most "
        f"{per_node[most] * 1e6:.0f} us ({most}, {per_node[most] / median:.1f} times). Beyond a factor of 3: "
        f"{', '.join(beyond) or 'none'}. Largest graph: {_size(largest, results)}; longest analysis: "
        f"{_size(longest, results)}."
    ]


def _size(name: str, results: Mapping[str, Result]) -> str:
    return f"{name}, {results[name]['nodes']} nodes, {results[name]['seconds']['analysis']:.2f} s"


def details(results: Results, order: Sequence[str]) -> str:
    """One line for every model: fxprune's figures, and how the others fared."""
    others = [library for library in results if library != "fxprune" and results[library]]
    rows = []
    for name in order:
        if not any(name in found for found in results.values()):
            continue
        own = results.get("fxprune", {}).get(name, {})
        rows.append([name, *_own_cells(own), *(_other_cell(results[library].get(name)) for library in others)])
    lines = [_table([*HEADINGS, *(LIBRARIES[library] for library in others)], rows)]
    failures = [line for name in order for line in _failures(name, results.get("fxprune", {}).get(name, {}))]
    return "\n\n".join([*lines, *(["What went wrong with fxprune:\n\n" + "\n".join(failures)] if failures else [])])


def _own_cells(result: Result) -> list[str]:
    seconds = result.get("seconds", {})
    flops = result.get("flops")
    return [
        str(result.get("status", "")),
        f"{100 * flops[1] / flops[0]:.1f} %" if flops and flops[0] else "",
        _number(result.get("error"), ".0e"),
        str(_verdict(result) or ""),
        _mark(result.get("trains")),
        _mark((result.get("apply") or {}).get("agrees")),
        _mark((result.get("onnx") or {}).get("agrees")),
        _number(seconds.get("capture"), ".1f"),
        _number(seconds.get("analysis"), ".0f", 1000),
        _number(seconds.get("compile"), ".1f"),
        str(result.get("nodes", "")),
        _number(result.get("uncuttable"), ".0f", 100, " %"),
        str(result.get("peak_mib", "")),
    ]


def _other_cell(result: Result | None) -> str:
    if result is None:
        return ""
    text = str(result["status"])
    if "failure" in result:
        return f"{text}: {result['failure']['type']}"
    extra = [f"{result['ratio']:.2f}x"] if "ratio" in result else []
    extra += [] if result.get("keeps_outputs", True) else ["other output shapes"]
    verdict = _verdict(result)
    return ", ".join([text, *extra, *([f"reference: {verdict}"] if verdict else [])])


def _failures(name: str, result: Result) -> list[str]:
    """One line for each error that was raised, and for a contradiction of the reference interpreter."""
    oracle = result.get("oracle", {})
    found = {
        f"{result.get('status')} in {result.get('stage')}": result.get("failure"),
        "training": result.get("training_failure"),
        "apply": (result.get("apply") or {}).get("failure"),
        "ONNX": (result.get("onnx") or {}).get("failure"),
    }
    lines = [f"{what}: {f['type']} at {f['where']}: {f['message']}" for what, f in found.items() if f is not None]
    if oracle and oracle["verdict"] != "agrees":
        lines.append(f"reference: {oracle['verdict']}: {oracle.get('message', oracle.get('error'))}")
    return [f"- {name}, {line}" for line in lines]


def _number(value: float | None, form: str, scale: float = 1.0, unit: str = "") -> str:
    return "" if value is None else f"{format(value * scale, form)}{unit}"


def _mark(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "NO"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
