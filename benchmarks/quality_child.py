"""A worker of the quality benchmark: reads jobs, a JSON line each, and answers with JSON lines, until its input ends.

    python -m benchmarks.quality_child CHECKPOINTS [--device DEVICE] [--quick]

Answers to a job are one line for every result, and at last {"done": true}. What failed is a line too, with the reason. A
worker lives for many jobs, since importing libraries, waking a GPU and generating images take longer than many a job.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.coverage_child import describe, machine
from benchmarks.quality_plan import FULL, QUICK, Job, Variant
from benchmarks.quality_work import Bench, do


def main() -> None:
    """Parse arguments, and keep what libraries print away from the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    scale = QUICK if options.quick else FULL
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        bench = Bench(torch.device(options.device), scale, options.checkpoints, Path(folder))
        around = {"machine": _machine(bench.device), "versions": _versions()}
        for line in sys.stdin:
            job = read_job(line)
            # On a CPU, oneDNN's backward convolutions write out of bounds at some odd widths (torch 2.13).
            torch.backends.mkldnn.enabled = job.stage != "prune"
            for result in _answer(bench, job):
                answers.write(json.dumps({**result, **around}) + "\n")
                answers.flush()
            answers.write('{"done": true}\n')
            answers.flush()


def read_job(line: str) -> Job:
    """A job from its JSON line."""
    found = json.loads(line)
    return Job(**{**found, "wanted": tuple(Variant(**each) for each in found["wanted"])})


def _answer(bench: Bench, job: Job) -> Iterator[dict[str, Any]]:
    """The results of a job; where it breaks off, a line with the reason, and on with the variants after that."""
    asked = {"stage": job.stage, "network": job.network, "seed": job.seed, "method": job.method}
    if job.difficulty is not None:
        asked["difficulty"] = job.difficulty
    missing: dict[Variant | None, None] = dict.fromkeys(job.wanted or (None,))
    while missing:
        wanted = tuple(each for each in missing if each is not None)
        try:
            for variant, found in do(bench, replace(job, wanted=wanted)):
                del missing[variant]
                yield {**asked, **(asdict(variant) if variant else {}), "status": "ok", **found}
            break
        except Exception as error:
            traceback.print_exc()
            guilty = next(iter(missing))  # results come in the order in which they are asked for
            del missing[guilty]
            about = asdict(guilty) if guilty else {}
            yield {**asked, **about, "status": "failed", "failure": describe(error)}


def _machine(device: torch.device) -> str:
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{machine()}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("torch-pruning", "nvidia-modelopt"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


if __name__ == "__main__":
    main()
