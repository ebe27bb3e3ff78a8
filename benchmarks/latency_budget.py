"""Are budgets of latency met by measurement, and how good are predictions? ONNX Runtime on the CPU.

python benchmarks/latency_budget.py [--models resnet18 mobilenet_v2 bert_small] [--share 0.6] [--candidates 30] [--threads 1]

1. The latency model of resnet18: seconds to build it, and the error of its predictions for candidates that it has not seen.
2. Each model, compiled to a share of its latency, and what budgets of FLOPs keep that take as long: the nearest ones that are
   faster and slower, found by bisection of that budget with a measurement at each step. What comes near is measured again,
   several times, each time beside the original in a session of its own (where in memory a model lies is worth a percent).
   Beside parameters and FLOPs stands the loss that the search minimises, which is what budgets compare by.

Run it on a quiet machine. Times are measured anew (in an empty cache) unless `--cached`. Results are written after every
model, and those that are there already of others on this machine are kept. `--note` says what else the machine did.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import fxprune
from benchmarks.latency_models import SUBJECTS
from fxprune.backends import Timing
from fxprune.backends.machine import processor_name, versions_of
from fxprune.cli.vision_operators import declare_vision_operators
from fxprune.pruning import choices_of
from fxprune.widths import width_ranges

BACKEND = "onnxruntime"
TIMING = Timing(budget_s=4.0, relative_width=0.01, warmup_calls=10)
HALVINGS = 8
NEAR = 3
"""Budgets of FLOPs on either side that are measured again."""
SESSIONS = 3


def bert_small() -> tuple[nn.Module, Tensor]:
    """A BERT with 4 layers of 8 heads, a classifier, and a sequence of 128 tokens."""
    declare_vision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
    model: nn.Module = BertForSequenceClassification(config)
    return model.eval(), torch.randint(0, 30_000, (1, 128))


def of_subject(name: str) -> Callable[[], tuple[nn.Module, Tensor]]:
    """One of torchvision's models, and an image."""
    return lambda: (SUBJECTS[name].make(), SUBJECTS[name].example(1))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet18": of_subject("resnet18"),
    "mobilenet_v2": of_subject("mobilenet_v2"),
    "bert_small": bert_small,
}


def predictions(candidates: int) -> dict[str, Any]:
    """The latency model of resnet18."""
    torch.manual_seed(0)
    model, example = MODELS["resnet18"]()
    started = time.perf_counter()
    found = fxprune.latency_model(model, example, backend=BACKEND, held_out=0)
    built = time.perf_counter() - started
    found = fxprune.latency_model(model, example, backend=BACKEND, held_out=candidates)
    predicted, measured = found.held_out.T
    errors = np.abs(predicted / measured - 1)
    return {
        "seconds": built,
        "candidates": candidates,
        "median error": float(np.median(errors)),
        "90 % error": float(np.quantile(errors, 0.9)),
        "predicted and measured ms": (found.held_out * 1e3).round(3).tolist(),
    }


def budget_of(name: str, share: float) -> dict[str, Any]:
    """One model at a share of its latency, and budgets of FLOPs that take as long."""
    torch.manual_seed(0)
    model, example = MODELS[name]()
    started = time.perf_counter()
    slim = fxprune.compile(model, {"latency": share}, example_inputs=(example,), backend=BACKEND)
    seconds = time.perf_counter() - started
    latency = next(metric for metric in slim.report.metrics if metric.name == "latency")
    near = _as_fast(model, example, slim)
    shares = [_measured(model, [slim, *near], example) for _ in range(SESSIONS)]
    own, *others = [
        _facts(model, example, slim, made, each) for made, *each in zip([slim, *near], *shares, strict=True)
    ]
    order = sorted(others, key=lambda each: each["share"])
    return {
        "seconds": seconds,
        "original ms": latency.before * 1e3,
        "slim ms": latency.after * 1e3,
        "upper end": 1 / float(re.findall(r"times faster \[([\d.]+),", slim.report.notes[-2])[0]),
        "budgets": {
            "latency": own,
            "FLOPs, faster": next((each for each in reversed(order) if each["share"] <= own["share"]), None),
            "FLOPs, slower": next((each for each in order if each["share"] > own["share"]), None),
        },
        "notes": list(slim.report.notes[-2:]),
    }


def _as_fast(model: nn.Module, example: Tensor, slim: fxprune.SlimModule) -> list[fxprune.SlimModule]:
    """What budgets of FLOPs give that takes about as much time as a slim module, by bisection of the budget."""
    (wanted,) = _measured(model, [slim], example)
    low, high = 0.1, 1.0
    tried: dict[tuple[int, ...], tuple[float, fxprune.SlimModule]] = {}
    for _ in range(HALVINGS):
        budget = (low + high) / 2
        made = fxprune.compile(
            model, budget, example_inputs=(example,), scores=slim.scores, verify=False, progress=False
        )
        widths = tuple(kept for kept, _ in made.plan.widths.values())
        if widths not in tried:
            tried[widths] = _measured(model, [made], example)[0], made
        low, high = (budget, high) if tried[widths][0] <= wanted else (low, budget)
    order = sorted(tried.values(), key=lambda each: each[0])
    faster = sum(used <= wanted for used, _ in order)
    return [made for _, made in order[max(faster - NEAR, 0) : faster + NEAR]]


def _measured(model: nn.Module, modules: Sequence[fxprune.SlimModule], example: Tensor) -> list[float]:
    """Shares of the original's latency that modules take, each measured beside it in a session of its own."""
    found = []
    for each in modules:
        pair = {"original": model, "slim": each}
        table = fxprune.bench(pair, [BACKEND], example_inputs=(example,), timing=TIMING, verify=False)
        speedup = table.rows[1].latency.speedup
        assert speedup is not None
        found.append(1 / speedup.median)
    return found


def _facts(
    model: nn.Module, example: Tensor, slim: fxprune.SlimModule, made: fxprune.SlimModule, shares: list[float]
) -> dict[str, Any]:
    """What a module takes and keeps, and what the search says is lost, by the importance that `slim` has."""
    assert slim.scores is not None
    analysis = fxprune.analyze(model, (example,))
    every = {group.name: np.arange(1, group.size + 1) for group in analysis.groups}
    choices = choices_of(analysis, slim.scores, width_ranges(analysis, 1, 0.0), every)
    lost = [each.loss[made.plan.widths[each.group][0] - 1] for each in choices]
    return {
        "share": statistics.median(shares),
        "low": min(shares),
        "high": max(shares),
        "kept": {metric.name: metric.after / metric.before for metric in made.report.metrics if metric.before},
        "loss": float(sum(lost)),
    }


def written(found: dict[str, Any]) -> str:
    """The table."""
    lines = ["# Budgets of latency, met by measurement", "", f"Measured on {found['machine']}.", ""]
    if "predictions" in found:
        known = found["predictions"]
        lines += [
            f"The latency model of resnet18 took {known['seconds']:.0f} s to build"
            f"{' (with times that were known)' if known['cached'] else ''}; over {known['candidates']} random "
            f"candidates that it has not seen its median error is {known['median error']:.1%}, the 90 % quantile "
            f"{known['90 % error']:.1%}.",
            "",
        ]
    if not found["budgets"]:
        return "\n".join(lines).rstrip()
    lines += [
        f"A budget of {found['share']:.0%} of the original's latency, and the nearest budgets of FLOPs that are faster and "
        f"slower: shares of the original's latency (median, lowest and highest of {SESSIONS} sessions), of the parameters and "
        "FLOPs that are kept, and the loss that the search minimises. The upper end of the 95 % interval that the budget "
        "was met by stands behind `latency`.",
        "",
        "| model | original, ms | budget | share of latency | parameters | FLOPs | loss | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in found["budgets"].items():
        if "failed" in each:
            lines.append(f"| {name} | - | latency | not met | - | - | - | - |")
            continue
        first = [name, f"{each['original ms']:.3g}", f"latency (up to {each['upper end']:.1%})"]
        for budget, one in each["budgets"].items():
            begin = first if budget == "latency" else ["", "", budget]
            seconds = f"{each['seconds']:.0f}" if budget == "latency" else ""
            lines.append(f"| {' | '.join([*begin, *_cells(one), seconds])} |")
    return "\n".join(lines)


def _cells(one: dict[str, Any] | None) -> list[str]:
    """What is told of one module; nothing where there is none."""
    if one is None:
        return ["-"] * 4
    share = f"{one['share']:.1%} ({one['low']:.1%} .. {one['high']:.1%})"
    return [share, f"{one['kept']['params']:.1%}", f"{one['kept']['flops']:.1%}", f"{one['loss']:.2f}"]


def main() -> None:
    """Measure, print, write after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--candidates", type=int, default=30, help="0 to leave the predictions out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cached", action="store_true", help="times that were measured before count")
    parser.add_argument("--note", default="", help="what else the machine did, for the table")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = known_results(options)
    with tempfile.TemporaryDirectory() as folder:
        if not options.cached:
            os.environ["FXPRUNE_CACHE"] = folder
        if options.candidates:
            found["predictions"] = predictions(options.candidates)
            found["predictions"]["cached"] = options.cached
            write(found, options.out)
        for name in options.models:
            try:
                found["budgets"][name] = budget_of(name, options.share)
            except fxprune.InfeasibleBudget as error:
                found["budgets"][name] = {"failed": str(error)}
            write(found, options.out)
    sys.stdout.write(written(found) + "\n")


def known_results(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured on this machine with these versions at this share before, or nothing."""
    versions = ", ".join(f"{name} {each}" for name, each in versions_of("torch", "onnxruntime").items())
    machine = f"{processor_name()}, {options.threads} thread(s), {versions}"
    machine += f"; {options.note}" if options.note else ""
    file = options.out / "latency_budget.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if known.get("machine") == machine and known.get("share") == options.share:
        return known
    return {"machine": machine, "share": options.share, "budgets": {}}


def write(found: dict[str, Any], out: Path) -> None:
    """The results and their table."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "latency_budget.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "latency_budget.md").write_text(written(found) + "\n")


if __name__ == "__main__":
    main()
