"""How long does it take to find out what can be cut? fxprune beside Torch-Pruning, in one run.

    python benchmarks/analysis.py --torch-pruning-python PYTHON [--rounds 5] [--out benchmarks/results]

PYTHON is the interpreter of an environment with Torch-Pruning (benchmarks/README.md says how to make one). Every
measurement is a process of its own with one thread; the two libraries take turns, so that a drift of the machine's
speed meets both.

What is compared, capture excluded on both sides:
- fxprune: `propagate` and `find_groups` on a captured graph: axes, coupling, dependency groups with nested choice.
    Building the cost polynomials, which Torch-Pruning has no counterpart of, is listed by itself. - Torch-Pruning:
    `DependencyGraph.build_dependency`, less the time of one forward pass (its tracing), and `get_all_groups`. Both
    are the best of three calls in a fresh process. The whole way from module to pruned module with magnitude scores
    is reported beside it: `fxprune.compile` to 50 % of FLOPs, with and without its own check, and Torch-Pruning's
    `MetaPruner.step` at a ratio of 0.3.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODELS = ("resnet50", "densenet121", "vit_b_16")
SECONDS = 600


def build(name: str) -> tuple[Any, Any]:
    """A torchvision model without weights, and an example input."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_library"] = library
    import torchvision

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)


def measure_fxprune(name: str) -> dict[str, float]:
    """Seconds of capture, analysis and compilation."""
    import fxprune
    from fxprune.capture import capture
    from fxprune.costs import build_costs
    from fxprune.groups import find_groups
    from fxprune.propagate import propagate

    model, image = build(name)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    program = capture(model, image)
    seconds["capture"] = time.perf_counter() - started
    seconds["analysis"] = best_of_three(lambda: find_groups(program, propagate(program, {})))
    propagation = propagate(program, {})
    groups = find_groups(program, propagation)
    seconds["costs"] = best_of_three(lambda: build_costs(program, propagation, groups))
    started = time.perf_counter()
    fxprune.compile(model, "50%", example_inputs=image, verify=False)
    seconds["whole, unchecked"] = time.perf_counter() - started
    started = time.perf_counter()
    fxprune.compile(model, "50%", example_inputs=image)
    seconds["whole, checked"] = time.perf_counter() - started
    return {**seconds, "groups": float(len(groups))}


def best_of_three(call: Callable[[], object]) -> float:
    """Shortest duration of three calls, in seconds."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def measure_torch_pruning(name: str) -> dict[str, float]:
    """Seconds of a forward pass, of the dependency graph, of listing all groups, and of pruning."""
    import torch_pruning

    model, image = build(name)
    model(image)
    forward = best_of_three(lambda: model(image))
    built = best_of_three(lambda: torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image))
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image)
    listed = best_of_three(lambda: list(graph.get_all_groups()))
    groups = list(graph.get_all_groups())
    started = time.perf_counter()
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        image,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=0.3,
        ignored_layers=[module for module in model.modules() if getattr(module, "out_features", 0) == 1000],
    )
    pruner.step()
    return {
        "forward": forward,
        "build_dependency": built,
        "get_all_groups": listed,
        "analysis": max(built - forward, 0.0) + listed,
        "whole, unchecked": time.perf_counter() - started,
        "groups": float(len(groups)),
    }


def run_child(python: str, library: str, name: str) -> dict[str, float] | None:
    """One measurement in a process of its own; None where it fails or takes too long."""
    command = [python, __file__, "--child", library, "--model", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(python: str, rounds: int) -> dict[str, Any]:
    """Medians over the rounds for each model and library, taking turns."""
    found: dict[str, Any] = {}
    for name in MODELS:
        runs: dict[str, list[dict[str, float]]] = {"fxprune": [], "torch-pruning": []}
        for _ in range(rounds):
            for library, interpreter in (("fxprune", sys.executable), ("torch-pruning", python)):
                result = run_child(interpreter, library, name)
                if result is not None:
                    runs[library].append(result)
        found[name] = {
            library: {key: statistics.median(each[key] for each in results) for key in results[0]} if results else None
            for library, results in runs.items()
        }
    return found


def table(found: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| model | groups fxprune / TP | analysis fxprune | analysis Torch-Pruning | ratio "
        "| ratio to TP with its tracing | costs fxprune "
        "| capture fxprune | forward TP | compile fxprune, unchecked / checked | prune TP, unchecked |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in found.items():
        ours, theirs = result["fxprune"], result["torch-pruning"]
        if ours is None or theirs is None:
            lines.append(f"| {name} | over {SECONDS} s or failed: {'fxprune' if ours is None else 'Torch-Pruning'} |")
            continue
        lines.append(
            f"| {name} | {ours['groups']:.0f} / {theirs['groups']:.0f} | {ours['analysis'] * 1e3:.0f} ms "
            f"| {theirs['analysis'] * 1e3:.0f} ms | {theirs['analysis'] / ours['analysis']:.1f} "
            f"| {(theirs['build_dependency'] + theirs['get_all_groups']) / ours['analysis']:.1f} "
            f"| {ours['costs'] * 1e3:.0f} ms | {ours['capture']:.2f} s | {theirs['forward']:.2f} s "
            f"| {ours['whole, unchecked']:.2f} s / {ours['whole, checked']:.2f} s | {theirs['whole, unchecked']:.2f} s |"
        )
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """What it was measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": model, "python": platform.python_version(), "torch": str(torch.__version__)}


def main() -> None:
    """Parse arguments; measure as a child, or compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-pruning-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--child", choices=("fxprune", "torch-pruning"))
    parser.add_argument("--model")
    options = parser.parse_args()
    if options.child:
        warnings.simplefilter("ignore")
        measure = measure_fxprune if options.child == "fxprune" else measure_torch_pruning
        sys.stdout.write(json.dumps(measure(options.model)) + "\n")
        return
    found = compare(options.torch_pruning_python, options.rounds)
    text = table(found)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "analysis.json").write_text(json.dumps({"machine": machine(), "models": found}, indent=1) + "\n")
    (options.out / "analysis.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
