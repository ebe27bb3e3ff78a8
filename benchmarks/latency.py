"""Are pruned models faster? Original, fxprune and Torch-Pruning at equal FLOPs, over backends, batch sizes and dtypes.

python benchmarks/latency.py [--models resnet50 bert] [--backends eager inductor-graphs] [--batches 1 64] [--dtypes float16]
    [--variants original fxprune fxprune:64 fxprune-latency:cuda-graph tp tp:64] [--share 0.5] [--seconds 1500]
    [--out benchmarks/results]
python benchmarks/latency.py --quick       a minute on a laptop: does it run?

Variants: `original`; `fxprune`, or `fxprune:N` with `align=N`; `tp`, or `tp:N` with `round_to=N`, bisected to the same share
of FLOPs; `fxprune-backend`, at that share too, with widths kept to what the backend is found to compute fast; and
`fxprune-latency`, which is given the share as a budget of latency. The last two are compiled for the cell's dtype and batch size
and on the cell's backend, or on the one named after a colon: `fxprune-latency:cuda-graph` is much sooner compiled than on
Inductor, where each of hundreds of small modules takes seconds, and its kernels for products are the same.
All variants of a cell (model, dtype, backend, batch size) are measured in interleaved rounds, so that their speed-ups over the
original hold on a machine whose speed drifts. On a GPU, CNNs and their images are laid out with channels last.

Every cell is appended to `latency.jsonl` when it is done, and what is there already is not measured again (`--fresh` to do
so), so that a run that is cut short loses nothing; `--seconds` ends a run. Tables, CSV and plots are made of that file by
`latency_table.py`, at the end and by themselves with `--only-table`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import fxprune
from benchmarks.latency_models import SUBJECTS, Subject, flops_of, prune_torch_pruning
from benchmarks.latency_table import write_tables
from fxprune.backends import Timing

BACKENDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "eager": ("eager", {}),
    "cuda-graph": ("eager", {"cuda_graph": True}),
    "inductor": ("inductor", {}),
    "inductor-graphs": ("inductor", {"mode": "reduce-overhead"}),
    "inductor-autotune": ("inductor", {"mode": "max-autotune"}),
    "onnxruntime": ("onnxruntime", {}),
    "tensorrt": ("tensorrt", {}),
}
Made = tuple[nn.Module | None, dict[str, Any]]
ON_GPU = ("eager", "inductor-graphs", "cuda-graph", "onnxruntime")
ON_CPU = ("eager", "inductor", "onnxruntime")
VARIANTS = ("original", "fxprune", "fxprune:64", "tp", "tp:8", "tp:16", "tp:64")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured side by side."""

    model: str
    dtype: str
    backend: str
    batch: int


@dataclass(frozen=True, slots=True)
class Making:
    """How variants are made: the device, the share of the original's FLOPs or latency, and what was made for several cells."""

    device: torch.device
    share: float
    timing: Timing
    made: dict[tuple[Any, ...], Made] = field(default_factory=dict)


def variant_of(subject: Subject, model: nn.Module, name: str, share: float) -> nn.Module:
    """A variant of a model that does not depend on the cell, on the CPU in float32."""
    kind, _, number = name.partition(":")
    if kind == "original":
        return model
    if kind == "tp":
        return prune_torch_pruning(subject, model, share, int(number) if number else None)
    align = int(number) if number else None
    return fxprune.compile(model, share, example_inputs=subject.example(2), align=align, progress=False)


def made_variants(name: str, variants: Sequence[str], share: float) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Variants by name, and of each its share of FLOPs and parameters, or why it could not be made."""
    subject = SUBJECTS[name]
    torch.manual_seed(0)
    original = subject.make()
    made: dict[str, nn.Module] = {}
    facts: dict[str, Any] = {}
    whole = (flops_of(original, subject.example(1)), _parameters(original))
    for variant in variants:
        started = time.perf_counter()
        try:
            made[variant] = variant_of(subject, original, variant, share)
            facts[variant] = _facts(made[variant], subject, whole)
        except Exception as error:  # a library that fails is a result
            facts[variant] = {"error": f"{type(error).__name__}: {error}"[:300]}
        _say(f"  {name} {variant}: {facts[variant]} in {time.perf_counter() - started:.0f} s")
    return made, facts


def _facts(model: nn.Module, subject: Subject, whole: tuple[int, int]) -> dict[str, float]:
    return {"flops": flops_of(model, subject.example(1)) / whole[0], "params": _parameters(model) / whole[1]}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def placed(module: nn.Module, subject: Subject, cell: Cell, device: torch.device) -> nn.Module:
    """A copy in the cell's dtype on the device."""
    import copy

    moved: nn.Module = copy.deepcopy(module).to(device=device, dtype=getattr(torch, cell.dtype)).eval()
    if subject.channels_last and device.type == "cuda":
        moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def inputs_of(subject: Subject, cell: Cell, device: torch.device) -> Tensor:
    """Inputs of the cell's batch size and dtype on the device."""
    example = subject.example(cell.batch).to(device)
    if not example.is_floating_point():
        return example
    example = example.to(getattr(torch, cell.dtype))
    last = subject.channels_last and device.type == "cuda"
    return example.contiguous(memory_format=torch.channels_last) if last else example


def measure_cell(
    cell: Cell, made: Mapping[str, nn.Module], making: Making, wanted: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Latency of each variant, all side by side, or, where one cannot run, each beside the original; and facts.

    Args:
        cell: what is measured.
        made: variants that are the same for all cells.
        making: how others are made.
        wanted: names of the others, which are compiled for the cell.
    """
    subject = SUBJECTS[cell.model]
    torch.manual_seed(1)
    example = inputs_of(subject, cell, making.device)
    modules = {name: placed(module, subject, cell, making.device) for name, module in made.items()}
    facts: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    for name in wanted:
        slim, facts[name] = _known(name, modules["original"], example, cell, making)
        if slim is None:
            failed[name] = {"error": facts[name]["error"]}
        else:
            modules[name] = slim
    return _together(modules, example, cell, making.timing) | failed, facts


def _known(name: str, original: nn.Module, example: Tensor, cell: Cell, making: Making) -> Made:
    """A variant that is compiled for a cell, once for all cells that it is the same for."""
    kind, _, backend = name.partition(":")
    key = (kind, cell.model, cell.dtype, cell.batch, backend or cell.backend)
    if key not in making.made:
        started = time.perf_counter()
        try:
            slim, facts = for_cell(kind, original, example, backend or cell.backend, making)
            making.made[key] = (slim, facts)
        except Exception as error:
            making.made[key] = (None, {"error": f"{type(error).__name__}: {error}"[:300]})
        _say(f"  {cell} {name}: {making.made[key][1]} in {time.perf_counter() - started:.0f} s")
    return making.made[key]


def for_cell(
    kind: str, model: nn.Module, example: Tensor, backend: str, making: Making
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, compiled to a budget on a backend; with what the report says of it."""
    name, options = BACKENDS[backend]
    budget: Any = {"latency": f"{making.share:.0%}"} if kind == "fxprune-latency" else making.share
    torch.compiler.reset()
    slim = fxprune.compile(
        model,
        budget,
        example_inputs=(example,),
        progress=False,
        backend=name,
        backend_options=dict(options),
        verify=False,
    )
    metrics = {metric.name: metric for metric in slim.report.metrics}
    shares = {metric: metrics[metric].after / metrics[metric].before for metric in ("flops", "params")}
    return slim, {**shares, "notes": slim.report.notes[-2:]}


def _together(modules: Mapping[str, nn.Module], example: Tensor, cell: Cell, timing: Timing) -> dict[str, Any]:
    try:
        return _bench(modules, example, cell, timing)
    except Exception:
        first, *others = modules
    found: dict[str, Any] = _alone({first: modules[first]}, example, cell, timing)
    if "error" in found[first]:
        return dict.fromkeys(modules, found[first])
    for other in others:
        found |= _alone({first: modules[first], other: modules[other]}, example, cell, timing)
    return found


def _alone(modules: Mapping[str, nn.Module], example: Tensor, cell: Cell, timing: Timing) -> dict[str, Any]:
    """One variant, the last of the modules, or why it cannot run."""
    try:
        return _bench(modules, example, cell, timing)
    except Exception as error:
        return {list(modules)[-1]: {"error": f"{type(error).__name__}: {error}"[:300]}}


def _bench(modules: Mapping[str, nn.Module], example: Tensor, cell: Cell, timing: Timing) -> dict[str, Any]:
    backend, options = BACKENDS[cell.backend]
    torch.compiler.reset()
    table = fxprune.bench(
        modules, [backend], example_inputs=(example,), timing=timing, verify=False, options={backend: options}
    )
    return {row.module: asdict(row.latency) for row in table.rows}


def cells_of(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells, those of one model together."""
    for model in options.models:
        for dtype in options.dtypes:
            for backend in options.backends:
                for batch in options.batches:
                    yield Cell(model, dtype, backend, batch)


def run(options: argparse.Namespace) -> None:
    """Measure what is not there yet, until the time is up."""
    file = options.out / "latency.jsonl"
    end = time.monotonic() + options.seconds
    timing = Timing(budget_s=options.each, relative_width=0.01, warmup_calls=10)
    making = Making(torch.device(options.device), options.share, timing)
    done = set() if options.fresh else finished(file, options)
    left = [cell for cell in cells_of(options) if cell not in done]
    compiled = [each for each in options.variants if each.startswith(("fxprune-latency", "fxprune-backend"))]
    fixed = [each for each in options.variants if each not in compiled]
    for name in dict.fromkeys(cell.model for cell in left):
        if time.monotonic() > end:
            break
        made, facts = made_variants(name, fixed, options.share)
        for cell in (each for each in left if each.model == name):
            if time.monotonic() > end:
                _say("the time is up; the same command goes on from here")
                return
            started = time.perf_counter()
            found, own = measure_cell(cell, made, making, compiled)
            record = {**asdict(cell), "device": making.device.type, "share": options.share, "facts": {**facts, **own}}
            append(file, {**record, "variants": options.variants, "latencies": found})
            _say(f"{_line(cell, found)} ({time.perf_counter() - started:.0f} s)")


def _line(cell: Cell, found: Mapping[str, Any]) -> str:
    """One line for the terminal: speed-ups over the original."""
    shown = [f"{name} {_speedup(each)}" for name, each in found.items() if name != "original"]
    return f"{cell.model} {cell.dtype} {cell.backend} batch {cell.batch}: {', '.join(shown)}"


def _speedup(latency: Mapping[str, Any]) -> str:
    ratio = latency.get("speedup")
    return f"{ratio['median']:.2f}x" if ratio else latency.get("error", "-")[:80]


def finished(file: Path, options: argparse.Namespace) -> set[Cell]:
    """Cells of the file that hold all variants asked for, on this device and at this share."""
    found = set()
    for record in read(file):
        same = record["device"] == torch.device(options.device).type and record["share"] == options.share
        if same and set(options.variants) <= set(record["variants"]):
            found.add(Cell(record["model"], record["dtype"], record["backend"], record["batch"]))
    return found


def read(file: Path) -> list[dict[str, Any]]:
    """Records of the file; half a line at its end, of a run that was killed, does not count."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Write one line, on the disk once this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a") as stream:
        stream.write("\n" * half + json.dumps(record) + "\n")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parsed() -> argparse.Namespace:
    """What the command line asks for, with what suits the device where it says nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument(
        "--models", nargs="+", default=["resnet50", "mobilenet_v2", "vit_b_16", "bert"], choices=SUBJECTS
    )
    parser.add_argument("--backends", nargs="+", default=ON_GPU if gpu else ON_CPU, choices=BACKENDS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64, 256] if gpu else [1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"] if gpu else ["float32"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--share", type=float, default=0.5, help="of the FLOPs, or of the latency")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=1e9, help="no further cell is begun after this time")
    parser.add_argument("--each", type=float, default=2.0, help="seconds for each module in a cell")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there already")
    parser.add_argument("--only-table", action="store_true", help="tables, CSV and plot of what is there")
    parser.add_argument("--quick", action="store_true", help="one small model, to see whether it runs")
    options = parser.parse_args()
    if options.quick:
        options.models, options.batches, options.each = ["resnet18"], [1], 0.3
        options.backends, options.variants = ["eager"], ["original", "fxprune", "tp:8"]
        options.dtypes = options.dtypes[:1]
    if options.variants[0] != "original":
        options.variants = ["original", *(each for each in options.variants if each != "original")]
    return options


def main() -> None:
    """Measure, then write the tables."""
    options = parsed()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if not options.only_table:
        run(options)
    _say(write_tables(read(options.out / "latency.jsonl"), options.out))


if __name__ == "__main__":
    main()
