"""Are pruned models faster? Original, fxprune and Torch-Pruning at equal FLOPs, over backends, batch sizes and dtypes.

python benchmarks/latency.py --list                                   names of all that is measured
python benchmarks/latency.py --only 'flops/*/float16/inductor-graphs/*' [--jobs 12] [--seconds 540]
python benchmarks/latency.py --only 'latency/*'                       budgets of latency
python benchmarks/latency.py --prepare                                Torch-Pruning's ratios, on any machine, ahead
python benchmarks/latency.py --quick                                  a minute on a laptop: does it run?

Two questions. `flops`: at half of the FLOPs, what is the speed-up? Torch-Pruning has no budget: its ratio is bisected, and its
widths, rounded by `round_to`, fall short of the half. So to each of its variants (`tp`, `tp:16`, `tp:64`) belongs one of fxprune
at the FLOPs that it really has, or fewer (`fxprune@tp:64`), and the table shows these pairs; `fxprune` is given the half itself.
`latency`: a budget of 50 % of the latency, `fxprune-latency`, compiled for the cell's dtype, batch size and backend, or for the
backend after a colon: on `cuda-graph` it is sooner compiled than on Inductor, which takes seconds for each of hundreds of small
modules, and the kernels for products are the same. `--variants` measures others, see `latency_variants.py`; `fxprune-backend`
keeps to widths that the cell's backend is found to compute fast.

Every cell is appended to `latency.jsonl` when it is done, and what is there is not measured again (`--fresh` to do so):
interrupted by `--seconds` or otherwise, the same command goes on. `--jobs` compiles for Inductor ahead, in so many processes.
Tables, CSV and plots are made by `latency_table.py`, at the end and by themselves with `--only-table`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.latency_cells import BACKENDS, OWN, Bench
from benchmarks.latency_models import SUBJECTS
from benchmarks.latency_records import Cell, Item, append, chosen, finished, read
from benchmarks.latency_table import write_tables
from benchmarks.latency_variants import Workshop
from benchmarks.latency_warm import warm
from fxprune.backends import Timing
from fxprune.backends.registry import get_backend

MODELS = ("resnet50", "mobilenet_v2", "vit_b_16", "bert")
ON_GPU = ("inductor-graphs", "eager", "onnxruntime")
ON_CPU = ("inductor", "eager", "onnxruntime")
TORCH_PRUNING = ("tp:64", "tp:16", "tp")
PAIRS = ("fxprune", *(each for other in TORCH_PRUNING for each in (other, f"fxprune@{other}")))
LATENCY_BATCH = 64


def items_of(options: argparse.Namespace) -> Iterator[Item]:
    """All that is measured: equal FLOPs first, one backend and dtype after the other."""
    fixed = tuple(each for each in options.variants if not each.startswith(OWN))
    own = tuple(each for each in options.variants if each.startswith(OWN))
    for dtype in options.dtypes:
        for backend in options.backends:
            for model in options.models:
                for batch in options.batches:
                    yield Item("flops", Cell(model, dtype, backend, batch), ("original", *fixed, *own))
    for dtype in options.dtypes:
        for backend, variant in options.latency:
            for model in options.models:
                cell = Cell(model, dtype, backend, options.latency_batch)
                yield Item("latency", cell, ("original", variant))


def run(options: argparse.Namespace) -> None:
    """Measure what is not there yet, until the time is up."""
    file, end = options.out / "latency.jsonl", time.monotonic() + options.seconds
    device = torch.device(options.device)
    done = {} if options.fresh else finished(file, device.type, options.share)
    wanted = chosen(items_of(options), options.only)
    left = [item for each in wanted if (item := each.without(done.get(each.cell, ())))]
    if options.list:
        _say("\n".join(f"{item.name}: {' '.join(item.variants)}" for item in left))
        return
    ratios = options.out / "latency_ratios.json"
    if options.jobs:
        warm(left, options.jobs, end - options.spare, device, options.share, ratios, _say)
    shop = Workshop(device, options.share, ratios, _say)
    bench = Bench(device, options.share, _timing(options), _say, options.lock)
    for item in left:
        if time.monotonic() > end:
            _say("the time is up; the same command goes on from here")
            return
        append(file, _record(item, shop, bench))


def _timing(options: argparse.Namespace) -> Timing:
    return Timing(budget_s=options.each, relative_width=0.01, warmup_calls=10)


def _record(item: Item, shop: Workshop, bench: Bench) -> dict[str, Any]:
    """What was measured in one cell."""
    started = time.perf_counter()
    fixed = [each for each in item.variants if not each.startswith(OWN)]
    modules, facts = shop.variants(item.cell.model, fixed)
    unmade = {name: {"error": facts[name]["error"]} for name in fixed if name not in modules}
    found, own = bench.measure(item.cell, modules, tuple(each for each in item.variants if each not in fixed))
    found |= unmade
    shown = [f"{name} {_speedup(each)}" for name, each in found.items() if name != "original"]
    _say(f"{item.name}: {', '.join(shown)} ({time.perf_counter() - started:.0f} s)")
    where = {**asdict(item.cell), "question": item.question, "device": bench.device.type, "share": bench.share}
    return {**where, "facts": {**facts, **own}, "latencies": found}


def _speedup(latency: dict[str, Any]) -> str:
    ratio = latency.get("speedup")
    return f"{ratio['median']:.2f}x" if ratio else latency.get("error", "-")[:80]


def prepare(options: argparse.Namespace) -> None:
    """Find Torch-Pruning's ratios."""
    shop = Workshop(torch.device("cpu"), options.share, options.out / "latency_ratios.json", _say)
    for model in options.models:
        shop.variants(model, [each for each in options.variants if each.partition(":")[0] == "tp"])


def usable(backends: Sequence[str], device: torch.device) -> list[str]:
    """Those that can run models on the device here; the others are named."""
    found = []
    for each in backends:
        reason = get_backend(BACKENDS[each][0]).available()
        if reason is None and each == "onnxruntime" and device.type == "cuda" and not _runs_cuda():
            reason = "this ONNX Runtime has no CUDA; pip install onnxruntime-gpu"
        if reason is None:
            found.append(each)
        else:
            _say(f"left out: {each}, {reason}")
    return found


def _runs_cuda() -> bool:
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parser_of(*, gpu: bool) -> argparse.ArgumentParser:
    """The command line, with what suits the device where it says nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=SUBJECTS)
    parser.add_argument("--backends", nargs="+", default=list(ON_GPU if gpu else ON_CPU), choices=BACKENDS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64, 256] if gpu else [1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"] if gpu else ["float32"])
    parser.add_argument("--variants", nargs="+", default=list(PAIRS))
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="of names, see --list")
    parser.add_argument("--list", action="store_true", help="what is left to measure, and nothing else")
    parser.add_argument("--share", type=float, default=0.5, help="of the FLOPs, or of the latency")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU")
    parser.add_argument("--jobs", type=int, default=0, help="processes that compile for Inductor ahead")
    parser.add_argument("--seconds", type=float, default=1e9, help="no further cell is begun after this time")
    parser.add_argument("--spare", type=float, default=0.0, help="of the seconds, for measuring what --jobs compiled")
    parser.add_argument("--lock", type=Path, help="a file; of processes that name the same one, one measures at a time")
    parser.add_argument("--each", type=float, default=2.0, help="seconds for each module in a cell")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there already")
    parser.add_argument("--prepare", action="store_true", help="find Torch-Pruning's ratios, and nothing else")
    parser.add_argument("--only-table", action="store_true", help="tables, CSV and plot of what is there")
    parser.add_argument("--quick", action="store_true", help="one small model, to see whether it runs")
    return parser


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    gpu = torch.cuda.is_available()
    options = parser_of(gpu=gpu).parse_args(arguments)
    on_gpu = torch.device(options.device).type == "cuda"
    quickest = "cuda-graph" if on_gpu else "eager"
    options.latency_batch = LATENCY_BATCH if on_gpu else 8
    options.latency = [(quickest, "fxprune-latency")]
    options.latency += [(each, f"fxprune-latency:{quickest}") for each in options.backends if each.startswith("induct")]
    if options.quick:
        options.models, options.batches, options.each = ["resnet18"], [1], 0.3
        options.backends, options.variants = ["eager"], ["tp:8", "fxprune@tp:8"]
        options.dtypes, options.latency = options.dtypes[:1], []
    options.variants = [each for each in options.variants if each != "original"]
    return options


def main() -> None:
    """Measure, then write the tables."""
    options = parsed()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.backends = usable(options.backends, torch.device(options.device))
    if options.prepare:
        prepare(options)
        return
    if not options.only_table:
        run(options)
    if not options.list:
        _say(write_tables(read(options.out / "latency.jsonl"), options.out))


if __name__ == "__main__":
    main()
