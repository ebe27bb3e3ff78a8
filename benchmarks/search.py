"""How far is the knapsack search from the optimum, where that can be computed?

python benchmarks/search.py [--count N] [--out benchmarks/results]

Two kinds of made-up instances whose costs are sums of products of widths, as those of networks are (a chain of layers
with a residual stream through all of it), with one to three limits at 20 to 80 % of the original: small ones, whose optimum
is found by trying every choice, and larger ones with terms of two factors, for which a mixed-integer program gives a
proven lower bound. The gap is the found loss over the optimal one, less 1. The other two methods stand beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks.coverage_child import machine
from fxprune.search import Choices, search
from tests.search.milp import exact_loss
from tests.search.synthetic import SyntheticCosts, brute_force, make_model, make_steep, total_loss
from tests.search.test_quality import SHAPES, random_limits

Instance = tuple[SyntheticCosts, list[Choices], dict[str, float]]
METHODS = ("knapsack", "threshold", "uniform")


def small(count: int) -> Iterator[Instance]:
    """Instances that can be enumerated, with up to three factors in a term and up to three limits."""
    for seed in range(1000, 1000 + count):
        costs, choices = make_model(seed, *SHAPES[seed % 3], cubic=seed % 2 == 1)
        choices = make_steep(seed, choices) if seed % 4 == 0 else choices
        yield costs, choices, random_limits(seed, costs, ("flops", "params", "memory")[: 1 + seed % 3])


def larger(count: int) -> Iterator[Instance]:
    """12 to 24 groups of 10 widths, one or two limits."""
    for seed in range(1000, 1000 + count):
        costs, choices = make_model(seed, (12, 16, 24)[seed % 3], 10)
        yield costs, choices, random_limits(seed, costs, ("flops", "params")[: 1 + seed % 2])


def measure(
    instances: Iterator[Instance], optimum: Callable[[SyntheticCosts, dict[str, float], list[Choices]], float]
) -> dict[str, dict[str, float]]:
    """Gaps and seconds by method."""
    gaps: dict[str, list[float]] = {method: [] for method in METHODS}
    seconds: dict[str, float] = dict.fromkeys(METHODS, 0.0)
    for costs, choices, limits in instances:
        best = optimum(costs, limits, choices)
        for method in METHODS:
            started = time.perf_counter()
            widths = search(costs, limits, choices, method)
            seconds[method] += time.perf_counter() - started
            gaps[method].append(total_loss(choices, widths) / best - 1)
    return {
        method: {
            "mean": float(np.mean(found)),
            "median": float(np.median(found)),
            "largest": float(np.max(found)),
            "optimal": float(np.mean(np.array(found) < 1e-5)),
            "seconds": seconds[method] / len(found),
        }
        for method, found in gaps.items()
    }


def table(title: str, count: int, found: dict[str, dict[str, float]]) -> list[str]:
    """One table of the report."""
    rows = [
        f"| {method} | {each['mean']:.3%} | {each['median']:.3%} | {each['largest']:.2%} | {each['optimal']:.0%} "
        f"| {each['seconds']:.2f} |"
        for method, each in found.items()
    ]
    head = ["| method | mean gap | median | largest | optimal | seconds |", "| --- | --- | --- | --- | --- | --- |"]
    return [f"## {title} ({count} instances)", "", *head, *rows, ""]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="instances of either kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    found = {
        "Optimum by enumeration": measure(small(options.count), brute_force),
        "Lower bound by integer programming": measure(larger(options.count), exact_loss),
    }
    lines = [
        "# Distance of the search from the optimum",
        "",
        f"Measured by `python benchmarks/search.py` on {machine()}.",
        "",
    ]
    for title, each in found.items():
        lines += table(title, options.count, each)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "search.md").write_text("\n".join(lines))
    (options.out / "search.json").write_text(
        json.dumps({"machine": machine(), "count": options.count, **found}, indent=1) + "\n"
    )
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    main()
