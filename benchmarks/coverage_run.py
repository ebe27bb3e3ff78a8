"""The command line of the coverage benchmark: hands out the work, keeps the results, writes the tables."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.coverage_models import Entry, select, zoo
from benchmarks.coverage_process import Limits, Task, run_all
from benchmarks.coverage_table import LIBRARIES, details, summary


def main(description: str) -> None:
    """Parse arguments, measure what is missing, write and print the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the processes at work are ended too
    options = parse(description)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "coverage.jsonl"
    known = read(lines)
    entries = select(options.only)
    wanted = [(library, entry) for library in options.library for entry in entries]
    tasks = [
        make_task(library, entry, options)
        for library, entry in wanted
        if options.fresh or entry.name not in known.get(library, {})
    ]
    if options.jobs:
        measure(longest_first(tasks, known), options, lines)
        keep_latest(lines)
    text = report(read(lines))
    (options.out / "coverage.md").write_text(text)
    sys.stdout.write(text.partition("## Every model")[0])


def parse(description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--library", action="append", choices=tuple(LIBRARIES), help="may be repeated; default: fxprune"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="names or sources; may be repeated"
    )
    parser.add_argument("--python-torch-pruning", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--python-modelopt", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; 0 to measure nothing")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a model")
    parser.add_argument("--memory", type=float, default=8, help="GiB for a model")
    parser.add_argument("--onnx", action="store_true", help="export to ONNX as well, and compare in ONNX Runtime")
    parser.add_argument("--apply", action="store_true", help="apply to the model's own class as well, and compare")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.library = options.library or ["fxprune"]
    return options


def make_task(library: str, entry: Entry, options: argparse.Namespace) -> Task:
    """What is to be run for one model."""
    pythons = {"torch-pruning": options.python_torch_pruning, "modelopt": options.python_modelopt}
    flags = [flag for flag in ("onnx", "apply") if library == "fxprune" and getattr(options, flag)]
    return Task(library, entry.name, pythons.get(library, sys.executable), tuple(f"--{flag}" for flag in flags))


def longest_first(tasks: Sequence[Task], known: dict[str, dict[str, dict[str, Any]]]) -> list[Task]:
    """By the seconds of their last run, so that no process works alone at the end; new ones first, in the zoo's order."""

    def seconds(task: Task) -> float:
        return float(known.get(task.library, {}).get(task.model, {}).get("total_seconds", float("inf")))

    return sorted(tasks, key=seconds, reverse=True)


def measure(tasks: Sequence[Task], options: argparse.Namespace, lines: Path) -> None:
    """Run the tasks; append each result as it comes, and say how it went."""
    finished = 0

    def done(task: Task, result: dict[str, Any]) -> None:
        nonlocal finished
        finished += 1
        line = {"library": task.library, "model": task.model, **result}
        with lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        failure = result.get("failure", {})
        said = f" in {result.get('stage')}: {failure['type']}: {failure['message']}"[:160] if failure else ""
        counter = f"[{finished}/{len(tasks)}]"
        took = f"({result['total_seconds']:.0f} s)"
        sys.stderr.write(f"{counter} {task.library} {task.model}: {result['status']}{said} {took}\n")

    run_all(tasks, Limits(options.limit, options.memory * 1024), options.jobs, done)


def read(lines: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Library -> model -> its latest result."""
    found: dict[str, dict[str, dict[str, Any]]] = {library: {} for library in LIBRARIES}
    if lines.exists():
        for line in lines.read_text().splitlines():
            result = json.loads(line)
            found[result["library"]][result["model"]] = result
    return found


def keep_latest(lines: Path) -> None:
    """Leave one line for each model and library, in the order of the zoo."""
    known = read(lines)
    order = [entry.name for entry in zoo()]
    kept = [json.dumps(known[library][name]) for library in LIBRARIES for name in order if name in known[library]]
    fresh = lines.with_suffix(".new")
    fresh.write_text("".join(f"{line}\n" for line in kept))
    fresh.replace(lines)


def report(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The whole text of coverage.md."""
    entries = {entry.name: entry for entry in zoo()}
    results = {library: {name: found[name] for name in entries if name in found} for library, found in results.items()}
    sources = {name: entry.source for name, entry in entries.items()}
    measured = "\n".join(
        f"- {LIBRARIES[library]}: {origin(found.values())}" for library, found in results.items() if found
    )
    head = f"# Coverage\n\nMeasured by `python benchmarks/coverage.py`:\n\n{measured}"
    return f"{head}\n\n{summary(results, sources)}\n\n## Every model\n\n{details(results, list(entries))}\n"


def origin(results: Iterable[dict[str, Any]]) -> str:
    """On what machines, and with which versions, one library was measured."""
    machines: Counter[str] = Counter()
    versions: dict[str, dict[str, None]] = {}
    for result in results:
        machines[result.get("machine", "an unknown machine")] += 1
        for name, version in result.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    places = ", ".join(f"{count} models on {machine}" for machine, count in machines.items())
    listed = ", ".join(" ".join([name, " or ".join(found)]) for name, found in sorted(versions.items()))
    return f"{places}; {listed}"
