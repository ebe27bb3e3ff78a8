"""Is a slim module as fast as the same architecture written by hand with those widths?

python benchmarks/handwritten.py [--models resnet18 mobilenet_v2 bert] [--seconds 20] [--out benchmarks/results]

Each model is pruned to half of its FLOPs; the same architecture is built by hand from the shapes of what is left
(`handwritten_models.py`), given the same weights, and checked to compute the same. Both are measured in interleaved
rounds in eager PyTorch, Inductor and ONNX Runtime; the ratio is the median of ratios paired by round, with its 95 %
interval: above 1 the slim module is slower. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from handwritten_models import Bert, MobileNetV2, ResNet18
from torch import Tensor, nn

import fxprune
from fxprune.backends import Timing, relative_error
from fxprune.backends.examples import flat_tensors
from fxprune.backends.machine import processor_name, versions_of
from fxprune.cli.models import load_model

BACKENDS = ("eager", "inductor", "onnxruntime")
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
    timing = Timing(budget_s=seconds, relative_width=0.005, warmup_calls=20)
    table = fxprune.bench({"slim": slim, "by hand": by_hand}, BACKENDS, example_inputs=example, timing=timing)
    found: dict[str, Any] = {"error": error}
    for row in table.rows:
        if row.module == "by hand" and row.latency.speedup is not None:
            ratio = row.latency.speedup
            found[row.backend] = {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
        else:
            found[f"{row.backend} ms"] = row.latency.median_s * 1e3
    return found


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each module on each backend")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {name: measure(MODELS[name], options.seconds) for name in options.models}
    versions = ", ".join(f"{name} {each}" for name, each in versions_of("torch", "onnxruntime").items())
    machine = f"{processor_name()}, {options.threads} thread(s), {versions}"
    lines = ["# Slim modules beside the same architecture written by hand", "", f"Measured on {machine}.", ""]
    lines += [f"| model | {' | '.join(BACKENDS)} |", "| --- |" + " --- |" * len(BACKENDS)]
    for name, found in results.items():
        cells = [_cell(found, backend) for backend in BACKENDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "handwritten.md").write_text("\n".join(lines) + "\n")
    (options.out / "handwritten.json").write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


def _cell(found: dict[str, Any], backend: str) -> str:
    """`1.004 (0.998 .. 1.009), 12.3 ms`: ratio with its interval, and the slim module's latency."""
    ratio = found.get(backend)
    if ratio is None:
        return "-"
    return f"{ratio['ratio']:.3f} ({ratio['low']:.3f} .. {ratio['high']:.3f}), {found[f'{backend} ms']:.3g} ms"


if __name__ == "__main__":
    main()
