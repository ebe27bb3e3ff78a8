"""What does FastNAS lose by measuring a third of the sensitivity map only?

python benchmarks/fastnas.py [--seeds 3] [--jobs 1] [--out benchmarks/results]

A ResNet-20 is trained on scikit-learn's digits (a minute of one core per seed). FastNAS measures the whole map, every
candidate width of every group in steps of 5 % (widths need no alignment here), and a third of it, each with the knapsack and
with ModelOpt's single threshold. What counts is the score of the model that is found (accuracy on the part of the training
images that scores are taken on, BatchNorm recalibrated), at 50 % and 25 % of the FLOPs, its accuracy on the test images, and
the number of evaluations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import Tensor, nn

import fxprune
from benchmarks.coverage_child import machine
from fxprune.batches import Batch
from fxprune.demo.digits import Digits, load_digits
from fxprune.demo.resnet20 import ResNet20
from fxprune.demo.train import Recipe, train
from fxprune.passes.fastnas import FastNAS, candidate_widths
from fxprune.passes.recalibrate import recalibrate

WAYS = {
    "whole map": FastNAS(share=1.0),
    "a third": FastNAS(),
    "whole map, not smoothed": FastNAS(share=1.0, smooth=0.0),
    "a third, not smoothed": FastNAS(smooth=0.0),
}
SEARCHES = ("knapsack", "threshold")
BUDGETS = (0.5, 0.25)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that are named rightly."""
    model.eval()
    return float((model(images).argmax(1) == labels).float().mean())


def score_on(images: Tensor, labels: Tensor) -> Callable[[nn.Module], float]:
    """The accuracy on these images, as a score function."""
    return lambda model: accuracy(model, images, labels)


def measure(seed: int, epochs: int) -> list[dict[str, Any]]:
    """Every way with every search at every budget, for one trained network."""
    torch.set_num_threads(1)
    data: Digits = load_digits(seed=seed)
    torch.manual_seed(seed)
    model = ResNet20()
    train(model, data, Recipe(epochs, 0.1), seed=seed)
    images, labels = data.train_images, data.train_labels
    score = score_on(images[:500], labels[:500])
    batches = list(images.split(128))
    found = []
    for way, scorer in WAYS.items():
        scores: Any = None
        for search in SEARCHES:
            for budget in BUDGETS:
                given: dict[str, Any] = {"scorer": scorer} if scores is None else {"scores": scores}
                slim = fxprune.compile(
                    model, budget, example_inputs=images[:2], data=batches, score=score, search=search,
                    align=1, reconstruct=False, verify=False, **given,
                )  # fmt: skip
                recalibrate(slim, [Batch(batch, (batch,), {}) for batch in batches])
                scores = slim.scores
                found.append(
                    {
                        "seed": seed,
                        "way": way,
                        "search": search,
                        "budget": budget,
                        "evaluations": scores.effort["evaluations"],
                        "score": score(slim),
                        "test": accuracy(slim, data.test_images, data.test_labels),
                        "original": accuracy(model, data.test_images, data.test_labels),
                    }
                )
                sys.stderr.write(f"{found[-1]}\n")
    return found


def exhaustive() -> int:
    """Candidate widths of the whole map: what an exhaustive one evaluates."""
    model, images = ResNet20().eval(), load_digits().train_images[:2]
    context = fxprune.Context(model, fxprune.analyze(model, images), align=1)
    return sum(len(candidate_widths(context, group, FastNAS().step)) - 1 for group in context.groups)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Means and standard deviations over the seeds."""
    lines = ["| search | FLOPs | map | evaluations | score | test accuracy |", "| --- | --- | --- | --- | --- | --- |"]
    for search in SEARCHES:
        for budget in BUDGETS:
            for way in WAYS:
                own = [each for each in rows if (each["search"], each["budget"], each["way"]) == (search, budget, way)]
                cells = [
                    f"{100 * np.mean(v):.1f} ± {100 * np.std(v):.1f}"
                    for v in ([e[k] for e in own] for k in ("score", "test"))
                ]
                evaluations = np.mean([each["evaluations"] for each in own])
                lines.append(f"| {search} | {budget:.0%} | {way} | {evaluations:.0f} | {cells[0]} | {cells[1]} |")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes, a seed each")
    parser.add_argument("--table", action="store_true", help="only write the table of what was measured")
    parser.add_argument("--epochs", type=int, default=25, help="of training")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            found = pool.map(measure, range(options.seeds), [options.epochs] * options.seeds)
            rows = [row for each in found for row in each]
        place = {"machine": machine(), "torch": str(torch.__version__)}
        (options.out / "fastnas.json").write_text(json.dumps({**place, "rows": rows}, indent=1) + "\n")
    place = json.loads((options.out / "fastnas.json").read_text())
    rows = place["rows"]
    seeds = len({row["seed"] for row in rows})
    original = np.mean([row["original"] for row in rows])
    head = f"Measured by `python benchmarks/fastnas.py` on {place['machine']}, torch {place['torch']}, {seeds} seeds."
    lines = [
        "# FastNAS with a third of the evaluations",
        "",
        head,
        f"Test accuracy before pruning: {original:.1%}. An exhaustive map has {exhaustive()} candidates; *whole map* leaves out",
        "those that lie between two equal losses, since curves are monotone; all evaluations count the original's.",
        "",
    ]
    text = "\n".join([*lines, *table(rows), ""])
    (options.out / "fastnas.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
