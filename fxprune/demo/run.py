"""The demonstration from data to table: train, prune, fine-tune, export, measure side by side.

Every figure that it prints is computed or measured while it runs. The test images are left out of both trainings, and
nothing is chosen by looking at them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import fxprune
from fxprune.backends.measure import Latency, Timing
from fxprune.cli.output import write_slim
from fxprune.demo.digits import Digits, load_digits
from fxprune.demo.picture import draw_widths
from fxprune.demo.resnet20 import ResNet20
from fxprune.demo.stages import Stage, measure_stage, time_stages
from fxprune.demo.steps import Steps
from fxprune.demo.table import Result, as_data, as_table, as_text
from fxprune.demo.train import Recipe, train

__all__ = ["Settings", "run_demo"]

PEAK_RATE = 0.1
FINE_TUNE_PEAK_RATE = 0.03
CALIBRATION = 512
"""Training images, without labels, that pruning looks at."""
TIMING = Timing(budget_s=2.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the demonstration runs with.

    Attributes:
        out: Existing folder for its files.
        seed: What decides the split, the weights, and the order and moves of the images.
        budget: As `fxprune.compile` takes it.
        epochs: Length of the first training.
        fine_tune_epochs: Length of the training after pruning.
        side: Height and width of the images.
        align: Widths are kept to multiples of this; ONNX Runtime's convolutions work on blocks of channels.
        batches: Numbers of images to a call for which latency is measured.
        timing: How long latency is measured.
    """

    out: Path
    seed: int = 0
    budget: str | float | Mapping[str, str | float] = "50%"
    epochs: int = 12
    fine_tune_epochs: int = 6
    side: int = 32
    align: int = 8
    batches: tuple[int, ...] = (1, 32)
    timing: Timing = TIMING


def run_demo(settings: Settings, console: Console | None = None) -> Result:
    """Run the demonstration, print its table and write its files.

    Args:
        settings: What to run.
        console: Where the table and the progress go; the terminal if None.

    Returns:
        What was measured. The folder `settings.out` then holds `original.onnx`, `pruned.onnx` (as cut), `model.onnx`
        (fine-tuned), `plan.json`, `weights.safetensors`, `report.txt`, `report.json` and `widths.png`.
    """
    console = console or Console()
    steps = Steps(console)
    data = load_digits(side=settings.side, seed=settings.seed)
    torch.manual_seed(settings.seed)
    model = ResNet20()

    _train("training", model, data, Recipe(settings.epochs, PEAK_RATE), settings.seed, steps)
    original = measure_stage("original", model, data, settings.out / "original.onnx")
    with steps.step("pruning"):
        slim = _prune(model, data, settings)
    pruned = measure_stage("pruned", slim, data, settings.out / "pruned.onnx")
    recipe = Recipe(settings.fine_tune_epochs, FINE_TUNE_PEAK_RATE)
    _train("fine-tuning", slim, data, recipe, settings.seed + 1, steps)
    tuned = measure_stage("fine-tuned", slim, data, settings.out / "model.onnx")

    stages = (original, pruned, tuned)
    latencies = _time(stages, data, settings, steps)
    result = Result(stages, latencies, len(data.test_labels), steps.seconds)
    _write(result, model, slim, settings.out)
    console.print(as_table(result))
    console.print(f"Everything is in {settings.out}/", highlight=False)
    return result


def _train(name: str, model: nn.Module, data: Digits, recipe: Recipe, seed: int, steps: Steps) -> None:
    with steps.step(name, recipe.epochs) as tick:
        train(model, data, recipe, seed=seed, tick=tick)


def _prune(model: nn.Module, data: Digits, settings: Settings) -> fxprune.SlimModule:
    return fxprune.compile(
        model,
        settings.budget,
        example_inputs=(data.train_images[:1],),
        data=list(data.train_images[:CALIBRATION].split(64)),
        align=settings.align,
        seed=settings.seed,
    )


def _time(stages: Sequence[Stage], data: Digits, settings: Settings, steps: Steps) -> dict[int, Mapping[str, Latency]]:
    latencies: dict[int, Mapping[str, Latency]] = {}
    with steps.step("measuring", len(settings.batches)) as tick:
        for batch in settings.batches:
            latencies[batch] = time_stages(stages, data.train_images[:batch], settings.timing)
            tick()
    return latencies


def _write(result: Result, model: nn.Module, slim: fxprune.SlimModule, folder: Path) -> None:
    write_slim(slim, folder, onnx=False)
    draw_widths(model, slim, folder / "widths.png")
    text = f"{as_text(as_table(result))}\n{slim.report}\n"
    data = as_data(result) | {"compile": json.loads(slim.report.to_json())}
    (folder / "report.txt").write_text(text, encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
