"""How many candidates a second can be costed? One thread, no model built, nothing traced.

python benchmarks/costs.py [--models resnet50 densenet121 vit_b_16] [--out benchmarks/results]

A candidate is one width for every dependency group of the model; it is costed in FLOPs and parameters, and with peak
memory as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

import fxprune
from fxprune.cli.models import load_model

CANDIDATES = 200_000


def candidates_a_second(costs: fxprune.Analysis, metrics: Sequence[str]) -> float:
    """Candidates costed per second, the best of three runs over random widths."""
    sizes = costs.costs.sizes
    widths = np.random.default_rng(0).integers(1, sizes + 1, size=(CANDIDATES, len(sizes)))
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        costs.costs.evaluate(widths, metrics)
        best = max(best, CANDIDATES / (time.perf_counter() - started))
    return best


def measure(name: str) -> dict[str, float]:
    """Rates for one torchvision model."""
    import torch

    torch.set_num_threads(1)
    model = load_model(f"torchvision.models:{name}")
    analysis = fxprune.analyze(model, torch.randn(1, 3, 224, 224))
    return {
        "groups": len(analysis.groups),
        "flops and params": candidates_a_second(analysis, ("flops", "params")),
        "flops, params and memory": candidates_a_second(analysis, ("flops", "params", "memory")),
    }


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "densenet121", "vit_b_16"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    found = {name: measure(name) for name in options.models}
    lines = ["| model | groups | FLOPs and params | with memory |", "| --- | --- | --- | --- |"]
    for name, rates in found.items():
        lines.append(
            f"| {name} | {rates['groups']:.0f} | {rates['flops and params']:,.0f} candidates/s "
            f"| {rates['flops, params and memory']:,.0f} candidates/s |"
        )
    text = "\n".join(lines)
    (options.out / "costs.md").write_text(text + "\n")
    (options.out / "costs.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
