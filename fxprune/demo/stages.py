"""The network at one point of the demonstration, with everything about it that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

import fxprune
from fxprune.backends.measure import Timing, measure_side_by_side
from fxprune.backends.session import open_session
from fxprune.demo.digits import Digits
from fxprune.demo.train import accuracy

if TYPE_CHECKING:
    from fxprune.backends.measure import Latency

__all__ = ["Stage", "measure_stage", "time_stages"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One column of the table.

    Attributes:
        name: What has been done to the network.
        accuracy: Share of the test images that it names rightly.
        flops: Floating-point operations for one image, one multiply or one add each.
        params: Number of parameters.
        memory: Bytes of weights and peak activations for one image.
        artifact: The ONNX file.
        artifact_bytes: Its size.
    """

    name: str
    accuracy: float
    flops: int
    params: int
    memory: int
    artifact: Path
    artifact_bytes: int


def measure_stage(name: str, model: nn.Module, data: Digits, artifact: Path) -> Stage:
    """Export `model` as it is now and measure everything but time.

    Args:
        name: What the table calls it.
        model: The network in eval mode.
        data: The test images, and one training image as the example input.
        artifact: Where the ONNX file goes.

    Returns:
        The figures.
    """
    example = (data.train_images[:1],)
    profile = fxprune.profile(model, example)
    lowered = fxprune.lower(model, "onnx", artifact, example_inputs=example)
    return Stage(
        name=name,
        accuracy=accuracy(model, data),
        flops=profile.flops,
        params=profile.params,
        memory=profile.memory,
        artifact=artifact,
        artifact_bytes=lowered.size_bytes,
    )


def time_stages(stages: Sequence[Stage], images: Tensor, timing: Timing) -> dict[str, Latency]:
    """Run the exported stages in ONNX Runtime, in turns, so that what disturbs the machine meets all alike.

    Args:
        stages: Which; speed-ups are relative to the first.
        images: The batch of one call.
        timing: How long to measure.

    Returns:
        The latency of one call by the stage's name.
    """
    # Shared: the threads of an idle session would otherwise spin on the cores that the next one in turn needs.
    runners = {stage.name: open_session(stage.artifact, shared=True) for stage in stages}
    first = runners[stages[0].name]
    return measure_side_by_side(
        {name: runner.bind(images) for name, runner in runners.items()},
        timing=timing,
        clock=first.clock,
        batch_size=len(images),
        device=first.device,
        versions=first.versions,
    )
