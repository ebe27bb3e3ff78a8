"""The result of the demonstration, as a table for people and as data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fxprune.backends.measure import Latency
from fxprune.budget import format_amount
from fxprune.demo.stages import Stage

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Result", "as_data", "as_table", "as_text"]

TEXT_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that was measured.

    Attributes:
        stages: The network before, after pruning, after fine-tuning.
        latencies: By batch size and by the stage's name.
        tested: Number of test images.
        seconds: How long the steps took, by name.
    """

    stages: tuple[Stage, ...]
    latencies: Mapping[int, Mapping[str, Latency]]
    tested: int
    seconds: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check that every stage has been timed."""
        assert all(set(by_name) == {stage.name for stage in self.stages} for by_name in self.latencies.values())


def as_table(result: Result) -> Table:
    """One row for each metric, one column for each stage, with the share or factor of the original beside it."""
    table = Table(
        title=f"ResNet-20 on handwritten digits ({result.tested} test images), latency in ONNX Runtime",
        caption=f"in brackets: share of the original, or how many times faster\n{_machine(result)}\n{_spent(result)}",
    )
    table.add_column("")
    for stage in result.stages:
        table.add_column(stage.name, justify="right")
    table.add_row("test accuracy", *(f"{stage.accuracy:.2%}" for stage in result.stages))
    for label, metric in (("FLOPs, 1 image", "flops"), ("parameters", "params"), ("memory, 1 image", "memory")):
        table.add_row(label, *_beside_shares(metric, [getattr(stage, metric) for stage in result.stages]))
    table.add_row("ONNX file", *_beside_shares("memory", [stage.artifact_bytes for stage in result.stages]))
    for batch, by_name in result.latencies.items():
        first, *others = (by_name[stage.name] for stage in result.stages)
        table.add_row(f"latency, batch {batch}", _milliseconds(first), *map(_beside_speedup, others))
    return table


def _beside_shares(metric: str, amounts: Sequence[int]) -> list[str]:
    texts = [format_amount(metric, amount).removesuffix(" parameters") for amount in amounts]
    shares = [f"{text} ({amount / amounts[0]:.0%})" for text, amount in zip(texts, amounts, strict=True)]
    return [texts[0], *shares[1:]]


def _milliseconds(latency: Latency) -> str:
    return f"{latency.median_s * 1e3:.3g} ms"


def _beside_speedup(latency: Latency) -> str:
    assert latency.speedup is not None
    return f"{_milliseconds(latency)} ({latency.speedup.median:.2f}x)"


def _spent(result: Result) -> str:
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())


def _machine(result: Result) -> str:
    latency = next(iter(next(iter(result.latencies.values())).values()))
    versions = ", ".join(f"{name} {number}" for name, number in latency.versions.items())
    return f"{latency.device}; {versions}"


def as_text(renderable: RenderableType) -> str:
    """Draw without colours, for a file."""
    file = StringIO()
    Console(file=file, width=TEXT_WIDTH, color_system=None).print(renderable)
    return file.getvalue()


def as_data(result: Result) -> dict[str, object]:
    """Everything in the table, unrounded, ready for JSON."""
    return {
        "tested_images": result.tested,
        "seconds": dict(result.seconds),
        "machine": _machine(result),
        "stages": [_stage_data(stage, result.latencies) for stage in result.stages],
    }


def _stage_data(stage: Stage, latencies: Mapping[int, Mapping[str, Latency]]) -> dict[str, object]:
    return {
        "name": stage.name,
        "accuracy": stage.accuracy,
        "flops": stage.flops,
        "params": stage.params,
        "memory_bytes": stage.memory,
        "onnx_file": stage.artifact.name,
        "onnx_bytes": stage.artifact_bytes,
        "latency": {str(batch): _latency_data(by_name[stage.name]) for batch, by_name in latencies.items()},
    }


def _latency_data(latency: Latency) -> dict[str, object]:
    speedup = latency.speedup
    return {
        "median_s": latency.median_s,
        "low_s": latency.low_s,
        "high_s": latency.high_s,
        "samples": latency.samples,
        "settled": latency.settled,
        "speedup": None if speedup is None else [speedup.low, speedup.median, speedup.high],
    }
