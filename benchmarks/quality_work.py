"""What a worker does: train a network, or prune a trained one by a method and fine-tune every result alike.

Accuracies of a pruned network, all on the test images:

- `pruned`: as the library returned it;
- `recalibrated`: BatchNorm statistics measured anew on the calibration images, for everybody by the same code, as cutting
  channels changes them;
- one for every length of fine-tuning, each a run of its own with its own cosine, from the recalibrated network.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.quality_data import Data, load
from benchmarks.quality_images import DIFFICULTY
from benchmarks.quality_mobilenet import MobileNet
from benchmarks.quality_plan import Job, Network, Scale, Variant, method, network
from benchmarks.quality_problem import Problem, Pruned, count_flops, prune
from benchmarks.quality_train import accuracy, recalibrate, train, tuning_recipe
from fxprune.demo.resnet20 import ResNet20


@dataclass(slots=True)
class Bench:
    """What a worker works with.

    Attributes:
        device: where everything is computed.
        scale: how large everything is.
        checkpoints: folder of the trained networks.
        folder: for files of a job.
        known: tasks that are loaded already.
    """

    device: torch.device
    scale: Scale
    checkpoints: Path
    folder: Path
    known: dict[tuple[str, float | None], Data] = field(default_factory=dict)

    def data(self, task: str, difficulty: float | None = None) -> Data:
        """The data of a task, loaded once."""
        if (task, difficulty) not in self.known:
            self.known[task, difficulty] = load(task, self.scale, self.device, difficulty)
        return self.known[task, difficulty]


def do(bench: Bench, job: Job) -> Iterator[tuple[Variant | None, dict[str, Any]]]:
    """The results of a job, as they come."""
    chosen = network(job.network)
    data = bench.data(chosen.task, job.difficulty)
    if job.stage == "prune":
        yield from _pruned(bench, job, chosen, data)
        return
    started = time.perf_counter()
    model = trained(bench, chosen, data, job.seed)
    if job.stage == "train":
        _save(model, checkpoint(bench.checkpoints, chosen, job.seed))
    yield None, {**_trained(model, data, job), "seconds": round(time.perf_counter() - started, 2)}


def build(chosen: Network, data: Data) -> nn.Module:
    """A network with fresh weights."""
    kind = ResNet20 if chosen.architecture == "resnet20" else MobileNet
    return kind(data.train.images.shape[1], data.classes)


def trained(bench: Bench, chosen: Network, data: Data, seed: int) -> nn.Module:
    """A network trained from fresh weights; the seed decides these, the order of the images and their augmentation."""
    torch.manual_seed(seed)
    model = build(chosen, data).to(bench.device)
    train(model, data, bench.scale.recipes[chosen.task], seed)
    return model


def _trained(model: nn.Module, data: Data, job: Job) -> dict[str, Any]:
    return {
        "accuracy": accuracy(model, data.test),
        "held": accuracy(model, data.held),
        "params": parameters(model),
        "flops": count_flops(model, data.train.images[:1]),
        "difficulty": DIFFICULTY if job.difficulty is None else job.difficulty,
    }


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(each.numel() for each in model.parameters())


def checkpoint(folder: Path, chosen: Network, seed: int) -> Path:
    """Where a trained network is kept."""
    return folder / f"{chosen.task}-{chosen.architecture}-{seed}.safetensors"


def _save(model: nn.Module, path: Path) -> None:
    """Write the weights, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _pruned(bench: Bench, job: Job, chosen: Network, data: Data) -> Iterator[tuple[Variant | None, dict[str, Any]]]:
    model = build(chosen, data).to(bench.device)
    model.load_state_dict(load_file(checkpoint(bench.checkpoints, chosen, job.seed), device=str(bench.device)))
    calibration = data.calibration(bench.scale.calibration, job.seed)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        problem = Problem(model.eval(), data, calibration, job.seed, bench.scale.tries, Path(folder))
        for result in prune(problem, method(job.method), job.wanted):
            yield result.variant, measure(bench, problem, chosen, result)


def measure(bench: Bench, problem: Problem, chosen: Network, result: Pruned) -> dict[str, Any]:
    """Everything about one pruned network."""
    share = problem.flops_share(result.model)
    assert share <= result.variant.budget, f"{share:.4f} of the FLOPs are over the budget of {result.variant.budget}"
    model = result.model
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=True)
    accuracies = {"pruned": accuracy(model, problem.data.test)}
    recalibrate(model, problem.batches)
    accuracies["recalibrated"] = accuracy(model, problem.data.test)
    started = time.perf_counter()
    for epochs in bench.scale.tuning:
        tuned = copy.deepcopy(model)
        train(tuned, problem.data, tuning_recipe(bench.scale.recipes[chosen.task], epochs), problem.seed)
        accuracies[f"{epochs} epochs"] = accuracy(tuned, problem.data.test)
    seconds = {"prune": round(result.seconds, 2), "tune": round(time.perf_counter() - started, 2)}
    found = {"flops": share, "params": parameters(model) / parameters(problem.model)}
    return {**found, "accuracy": accuracies, "seconds": seconds, "notes": result.notes}
