"""How well does a language model predict after pruning: by width, by depth, by both; before and after distillation?

    python benchmarks/llm.py [--out benchmarks/results] [--quick] [--device cuda] [--seconds S] [--only PATTERN]...

A Llama-style model with grouped-query attention (30 M parameters) is trained from nothing on the Python source of
installed packages (`llm_text.py`). It is pruned to 80 % and 60 % of its parameters without embeddings, and what is left is
distilled from it for 5 % of the tokens that it was trained with (25 % where a row says "longer"): it follows the original's
distributions and the text, half and half. Perplexity is that of
held-out files. Methods (`llm_prune.py`): fxprune's scorers as cut and with reconstruction, Torch-Pruning where it ends, and a
small model of the same shape trained from nothing for as many tokens as the distillation sees. The trained model and the text
are kept in OUT/llm-checkpoint, results are appended to OUT/llm.jsonl as they come, and a rerun does what is missing.
`--seconds` ends the run after that time, `--table` only writes OUT/llm.md. `--quick` is a smoke run with sizes that mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.coverage_child import machine
from benchmarks.llm_plan import FULL, LONGER, QUICK, Case, Scale, cases
from benchmarks.llm_prune import Problem, prune
from benchmarks.llm_table import report
from benchmarks.llm_text import Text, kept, read, windows
from benchmarks.llm_train import build, fit, followed, perplexity


def main() -> None:
    """Parse arguments; train, prune, distil what is missing; write the table."""
    options = parse()
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    scale, lines, until = (
        QUICK if options.quick else FULL,
        options.out / "llm.jsonl",
        time.monotonic() + options.seconds,
    )
    if not options.table:
        text = kept(options.out / "llm-checkpoint" / "text.npz", lambda: read(scale.bytes, scale.shape.vocab_size))
        held = windows(text.held, scale.training.length, scale.tested, seed=1)
        model = trained(scale, text, held, options, lines)
        for case in cases():
            wanted = not options.only or any(fnmatchcase(case.name, pattern) for pattern in options.only)
            if wanted and case.name not in known(lines) and time.monotonic() < until:
                add(lines, {"case": case.name, **measure(case, model, text, held, scale, options.device)})
    found = report(known(lines), scale)
    (options.out / "llm.md").write_text(found)
    sys.stdout.write(found)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="a smoke run with tiny sizes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for the whole run")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="cases; may be repeated")
    parser.add_argument("--table", action="store_true", help="compute nothing")
    return parser.parse_args()


def trained(scale: Scale, text: Text, held: Tensor, options: argparse.Namespace, lines: Path) -> nn.Module:
    """The trained model, from the checkpoint if there is one."""
    model, file = (
        build(scale.shape, scale.training.length, seed=0),
        options.out / "llm-checkpoint" / "model.safetensors",
    )
    if file.exists():
        model.load_state_dict(load_file(file), strict=False)
        return model.to(options.device)
    started = time.perf_counter()
    fit(model, text, scale.training, options.device)
    file.parent.mkdir(exist_ok=True)
    save_file({name: value.cpu() for name, value in model.named_parameters()}, file)
    result = {"seconds": round(time.perf_counter() - started, 1), "machine": place(options.device)}
    result |= {"perplexity": perplexity(model, held, options.device), "parameters": count(model)}
    result |= {"tokens": len(text.train), "bytes_per_token": text.bytes_per_token}
    add(lines, {"case": "original", **result})
    return model


def measure(case: Case, model: nn.Module, text: Text, held: Tensor, scale: Scale, device: str) -> dict[str, Any]:
    """One pruned model: perplexity right after, and after distillation (training from nothing: after training)."""
    calibration = windows(text.train, scale.training.length, scale.calibration, seed=2)
    started = time.perf_counter()
    try:
        slim = prune(case, Problem(model, calibration, held, scale, device))
    except Exception as error:
        return {"status": "failed", "failure": f"{type(error).__name__}: {error}"[:300], "machine": place(device)}
    found: dict[str, Any] = {
        "status": "ok",
        "seconds": round(time.perf_counter() - started, 1),
        "machine": place(device),
    }
    found |= {"parameters": count(slim), "perplexity": perplexity(slim, held, device)}
    recipe = scale.longer if case.method.endswith(LONGER) else scale.tuning
    fit(slim, text, recipe, device, None if case.method == "from nothing" else followed(model))
    return found | {"tuned": perplexity(slim, held, device)}


def count(model: nn.Module) -> dict[str, int]:
    """Parameters, tied ones once; without embeddings."""
    every = dict(model.named_parameters())
    embeddings = sum(each.numel() for name, each in every.items() if "embed" in name or "lm_head" in name)
    return {"all": sum(each.numel() for each in every.values()), "embeddings": embeddings}


def place(device: str) -> str:
    """The processor that computes."""
    return torch.cuda.get_device_name() if device != "cpu" else str(machine())


def add(lines: Path, result: dict[str, Any]) -> None:
    """Append a result, and say it."""
    result["versions"] = {"torch": str(torch.__version__)}
    with lines.open("a") as file:
        file.write(json.dumps(result) + "\n")
    sys.stderr.write(f"{json.dumps(result)}\n")


def known(lines: Path) -> dict[str, dict[str, Any]]:
    """The latest result about every case."""
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    return {each["case"]: each for each in found}


if __name__ == "__main__":
    main()
