"""What a method is given: a trained network, what it may look at, and the one counter of FLOPs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.coverage_compare import count_flops as count
from benchmarks.coverage_models import Example
from benchmarks.quality_data import Data, Part
from benchmarks.quality_plan import Method, Variant
from benchmarks.quality_train import accuracy

CALIBRATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Problem:
    """A trained network that is to be pruned.

    Attributes:
        model: in eval mode; not to be changed.
        data: its task.
        calibration: training images that methods may look at, with their labels.
        seed: for whatever is random.
        tries: how often a library may be asked, to come close under a budget.
        folder: where a method may keep files for as long as it runs.
    """

    model: nn.Module
    data: Data
    calibration: Part
    seed: int
    tries: int
    folder: Path

    @property
    def example(self) -> Tensor:
        """One training image, `[1, C, H, W]`."""
        return self.data.train.images[:1]

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The calibration images in batches of (images, labels)."""
        return self.calibration.batches(CALIBRATION_BATCH)

    def score(self, model: nn.Module) -> float:
        """Accuracy in percent on training images that were held out from training."""
        return accuracy(model, self.data.held)

    def flops_share(self, model: nn.Module) -> float:
        """FLOPs for one image, as a share of the original's."""
        return count_flops(model, self.example) / count_flops(self.model, self.example)


@dataclass(frozen=True, slots=True)
class Pruned:
    """A result of a method.

    Attributes:
        variant: which one.
        model: the pruned network, to be trained further.
        seconds: how long it took, without what an earlier variant had found out already.
        notes: more that is worth a line.
    """

    variant: Variant
    model: nn.Module
    seconds: float
    notes: dict[str, Any]


def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of a batch of (images, labels)."""
    return functional.cross_entropy(output, batch[1])


def count_flops(model: nn.Module, images: Tensor) -> int:
    """FLOPs by torch's own counter, one multiply or one add each; for all methods the same."""
    return count(model, Example(model, (images,), None))


def prune(problem: Problem, chosen: Method, wanted: tuple[Variant, ...]) -> Iterator[Pruned]:
    """Hand the problem to the method's library; results come as they are ready."""
    if chosen.library == "fxprune":
        from benchmarks.quality_fxprune import prune_fxprune

        return prune_fxprune(problem, chosen, wanted)
    if chosen.library == "torch-pruning":
        from benchmarks.quality_torch_pruning import prune_torch_pruning

        return prune_torch_pruning(problem, chosen, wanted)
    from benchmarks.quality_modelopt import prune_modelopt

    return prune_modelopt(problem, wanted)
