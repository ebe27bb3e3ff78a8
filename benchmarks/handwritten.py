"""Is a slim module as fast as the same architecture written by hand with those widths?

python benchmarks/handwritten.py [--models resnet18 mobilenet_v2 bert] [--seconds 20] [--out benchmarks/results]

Each model is pruned to half of its FLOPs; the same architecture is built by hand from the shapes of what is left
(`handwritten_models.py`), given the same weights, and checked to compute the same. Both are measured in interleaved
rounds in eager PyTorch, Inductor and ONNX Runtime; the ratio is the median of ratios paired by round: above 1 the slim module
is slower. Where in memory a module lies is worth a percent either way, which no number of rounds averages out, so that this is
done with several copies of both, prepared in turns one before the other; what is told is the median over them, the lowest and
the highest. With one thread its processor time is what counts, so that a machine that others use too does not matter. Results
are written after every model, and those of others are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from handwritten_models import Bert, MobileNetV2, ResNet18
from torch import Tensor, nn

import fxprune
from fxprune.backends import Latency, Timing, relative_error
from fxprune.backends.base import own_clock_of
from fxprune.backends.examples import flat_tensors
from fxprune.backends.machine import processor_name, versions_of
from fxprune.backends.measure import measure_side_by_side
from fxprune.backends.registry import get_usable_backend
from fxprune.cli.models import load_model
from fxprune.cli.vision_operators import declare_vision_operators

BACKENDS = ("eager", "inductor", "onnxruntime")
COPIES = 6
"""Copies of both modules that are measured, half of them with the slim one prepared first."""
Pair = tuple[nn.Module, nn.Module, Tensor]


def of_torchvision(name: str, by_hand: Callable[[Any], nn.Module]) -> Callable[[], Pair]:
    """Makes the slim and the handwritten form of one of torchvision's models."""

    def make() -> Pair:
        images = torch.randn(1, 3, 224, 224)
        slim = fxprune.compile(load_model(f"torchvision.models:{name}"), "50%", example_inputs=images)
        return slim, filled(by_hand(shapes_of(slim)), slim), images

    return make


def of_bert() -> Pair:
    """The slim and the handwritten form of a BERT with 4 layers of 4 heads."""
    declare_vision_operators()
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    tokens = torch.randint(0, 30_000, (1, 128))
    slim = fxprune.compile(BertModel(BertConfig(**sizes)).eval(), "50%", example_inputs=(tokens,))
    return slim, filled(Bert(shapes_of(slim), heads_of(slim, tokens)), slim), tokens


MODELS: dict[str, Callable[[], Pair]] = {
    "resnet18": of_torchvision("resnet18", ResNet18),
    "mobilenet_v2": of_torchvision("mobilenet_v2", MobileNetV2),
    "bert": of_bert,
}


def shapes_of(slim: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and buffers that are left."""
    return {name: tuple(tensor.shape) for name, tensor in slim.state_dict().items()}


def heads_of(slim: nn.Module, tokens: Tensor) -> list[int]:
    """The number of heads that each attention has, from what it is called with."""
    found: list[int] = []

    class Listener(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "scaled_dot_product_attention" in str(func):
                found.append(args[0].shape[1])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Listener():
        slim(tokens)
    return found


def filled(module: nn.Module, slim: nn.Module) -> nn.Module:
    """The handwritten module with the slim module's weights, all of them."""
    module.load_state_dict(slim.state_dict(), strict=True)
    return module.eval()


def measure(make: Callable[[], Pair], seconds: float) -> dict[str, Any]:
    """Ratios by backend, and the largest difference between the two modules."""
    torch.manual_seed(0)
    slim, by_hand, example = make()
    slim.eval()
    with torch.no_grad():
        outputs = zip(flat_tensors(slim(example)), flat_tensors(by_hand(example)), strict=True)
        error = max(relative_error(*pair) for pair in outputs)
    if error > 1e-4:
        raise SystemExit(f"the handwritten module computes something else: relative error {error:.2g}")
    found: dict[str, Any] = {"error": error}
    for backend in BACKENDS:
        pairs = [
            side_by_side(backend, {"slim": slim, "by hand": by_hand}, example, seconds / COPIES, turned=at % 2 == 1)
            for at in range(COPIES)
        ]
        ratios = [hand.speedup.median for _, hand in pairs if hand.speedup is not None]
        found[backend] = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        found[f"{backend} ms"] = statistics.median(slim.median_s for slim, _ in pairs) * 1e3
    return found


def side_by_side(
    backend: str, modules: dict[str, nn.Module], example: Tensor, seconds: float, *, turned: bool
) -> tuple[Latency, Latency]:
    """Latency of copies of both on a backend, prepared in order or the other way round."""
    usable = get_usable_backend(backend)
    timing = Timing(budget_s=seconds, relative_width=0.003, warmup_calls=20)
    torch._dynamo.reset()
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(usable.prepared(copy.deepcopy(module), example_inputs=((example,), {})))
            for name, module in sorted(modules.items(), reverse=not turned)
        }
        calls = {name: runners[name].bind(example) for name in modules}
        found = measure_side_by_side(calls, timing=timing, clock=own_clock_of(runners["slim"]))
    return found["slim"], found["by hand"]


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="time for each module on each backend, over all copies"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = ", ".join(f"{name} {each}" for name, each in versions_of("torch", "onnxruntime").items())
    machine = f"{processor_name()}, {options.threads} thread(s), {versions}"
    file = options.out / "handwritten.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    results = {name: each for name, each in known.items() if name in MODELS and known["machine"] == machine}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        results[name] = measure(MODELS[name], options.seconds)
        file.write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")
    text = written(machine, results)
    (options.out / "handwritten.md").write_text(text)
    sys.stdout.write(text)


def written(machine: str, results: dict[str, Any]) -> str:
    """The table."""
    lines = ["# Slim modules beside the same architecture written by hand", "", f"Measured on {machine}.", ""]
    lines += [
        "Ratio of their times, above 1 where the slim module is slower: median, lowest and highest of copies.",
        "",
    ]
    lines += ["Beside it the slim module's time.", ""]
    lines += [f"| model | {' | '.join(BACKENDS)} |", "| --- |" + " --- |" * len(BACKENDS)]
    for name, found in results.items():
        cells = [_cell(found, backend) for backend in BACKENDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any], backend: str) -> str:
    """`1.004 (0.998 .. 1.009), 12.3 ms`: ratio with its range, and the slim module's latency."""
    ratio = found[backend]
    return f"{ratio['ratio']:.3f} ({ratio['low']:.3f} .. {ratio['high']:.3f}), {found[f'{backend} ms']:.3g} ms"


if __name__ == "__main__":
    main()
