"""The command line of the quality benchmark: hands out jobs, keeps results, writes the tables."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality_plan import (
    FULL,
    FXPRUNE,
    MODELOPT,
    QUICK,
    TORCH_PRUNING,
    Job,
    Method,
    Network,
    method,
    select_methods,
    select_networks,
)
from benchmarks.quality_process import Pool, Settings
from benchmarks.quality_report import report, summary
from benchmarks.quality_store import Store

DIFFICULTIES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75)


def main(description: str) -> None:
    """Parse arguments, do what is missing, write and print the tables."""
    options = parse(description)
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out / "quality.jsonl")
    if options.jobs:
        for stage in (options.stage,) if options.stage else ("train", "prune"):
            run(jobs_of(stage, store, options), store, options)
    text, found = report(store.lines(), QUICK if options.quick else FULL)
    (options.out / "quality.md").write_text(text)
    (options.out / "quality.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(summary(text))


def parse(description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("train", "prune", "calibrate"), help="default: train, then prune")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; 0 to compute nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="a smoke run with tiny sizes")
    parser.add_argument("--only", action="append", default=[], metavar="NETWORK", help="names or patterns")
    parser.add_argument("--method", action="append", default=[], metavar="METHOD", help="names or patterns")
    parser.add_argument("--seed", action="append", type=int, metavar="SEED", help="may be repeated; default: all")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--limit", type=float, default=500, help="seconds for a job")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="seconds for the whole run")
    parser.add_argument("--retry", action="store_true", help="try again what failed")
    parser.add_argument("--difficulty", action="append", type=float, help="to calibrate; may be repeated")
    parser.add_argument("--python-torch-pruning", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--python-modelopt", default=sys.executable, metavar="PYTHON")
    options = parser.parse_args()
    options.until = time.monotonic() + options.seconds
    return options


def jobs_of(stage: str, store: Store, options: argparse.Namespace) -> list[Job]:
    """What is still to be done in a stage, the longest first."""
    networks = sorted(select_networks(options.only), key=lambda each: each.task == "digits")
    seeds = options.seed or (QUICK if options.quick else FULL).seeds
    if stage == "calibrate":
        difficulties = options.difficulty or DIFFICULTIES
        chosen = [each for each in networks if each.task == "images"]
        return [Job(stage, each.name, seeds[0], difficulty=value) for each in chosen for value in difficulties]
    if stage == "train":
        jobs = [Job(stage, each.name, seed) for each in networks for seed in seeds]
        return [job for job in jobs if store.missing(job, retry=True)]
    return _prunings(store, networks, select_methods(options.method, known_scorers()), seeds, retry=options.retry)


def known_scorers() -> list[str]:
    """Names of the scorers that fxprune has."""
    from fxprune.scorer import BUILT_IN

    return list(BUILT_IN)


def _prunings(
    store: Store, networks: Sequence[Network], methods: Sequence[Method], seeds: Sequence[int], *, retry: bool
) -> list[Job]:
    found = []
    for chosen in methods:
        for each in networks:
            for seed in seeds:
                job = Job("prune", each.name, seed, chosen.name, tuple(chosen.variants()))
                if wanted := store.missing(job, retry=retry):
                    found.append(replace(job, wanted=tuple(wanted)))
    return sorted(found, key=_by_library)


def _by_library(job: Job) -> int:
    """Libraries one after the other, so that workers keep their interpreter; within one, the order stays."""
    return (MODELOPT, TORCH_PRUNING, FXPRUNE).index(method(job.method).library)


def run(jobs: Sequence[Job], store: Store, options: argparse.Namespace) -> None:
    """Run jobs; append each result as it comes, and say how it went."""
    pythons = {TORCH_PRUNING: options.python_torch_pruning, MODELOPT: options.python_modelopt}
    arguments = [str(options.out.resolve() / "quality-checkpoints"), *(["--quick"] if options.quick else [])]
    if options.device:
        arguments += ["--device", options.device]
    started = time.monotonic()

    def python(job: Job) -> str:
        return pythons.get(method(job.method).library, sys.executable) if job.method else sys.executable

    def done(job: Job, result: dict[str, Any]) -> None:
        store.add(result)
        passed = time.monotonic() - started
        sys.stderr.write(f"[{passed:5.0f} s] {_said(job, result)}\n")

    settings = Settings(options.jobs, options.limit, options.until, tuple(arguments))
    Pool(settings, python, done).run(jobs)


def _said(job: Job, result: dict[str, Any]) -> str:
    """One line about one result."""
    what = f"{result['network']} seed {result['seed']} {result['method'] or result['stage']}"
    if job.difficulty is not None:
        what += f" difficulty {job.difficulty}"
    if "budget" in result:
        what += f" {result['budget']:.0%}{' + reconstruct' if result['reconstruct'] else ''}"
    if result["status"] != "ok":
        return f"{what}: {result['failure']['type']}: {result['failure']['message']}"
    share = f" at {result['flops']:.1%}" if "budget" in result else ""
    return f"{what}: accuracy {result['accuracy']}{share}, seconds {result['seconds']}"
