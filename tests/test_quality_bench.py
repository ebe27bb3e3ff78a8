"""The quality benchmark's task, training and tables are what they claim to be, and its stages run from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.quality_data import Data, Part, augment
from benchmarks.quality_images import CLASSES, POLYGONS, SHAPES, generate, outline
from benchmarks.quality_mobilenet import MobileNet
from benchmarks.quality_plan import BUDGETS, FULL, METHODS, QUICK, Job, Recipe, Variant, method, select_methods
from benchmarks.quality_problem import Problem
from benchmarks.quality_process import Pool, Settings
from benchmarks.quality_report import report
from benchmarks.quality_store import Store
from benchmarks.quality_torch_pruning import gradients
from benchmarks.quality_train import accuracy, rate_at, recalibrate, train

ROOT = Path(__file__).parents[1]


def test_images_come_from_the_seed() -> None:
    images, labels = generate(60, side=16, seed=3)
    again, same = generate(60, side=16, seed=3)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    assert not torch.equal(images, generate(60, side=16, seed=4)[0])
    assert images.shape == (60, 3, 16, 16)
    assert labels.bincount().tolist() == [60 // CLASSES] * CLASSES
    assert images.isfinite().all()


def test_difficulty_is_noise_and_more() -> None:
    easy, hard = (generate(40, side=16, difficulty=value)[0] for value in (0.0, 2.0))

    def roughness(images: torch.Tensor) -> float:
        return float((images[..., 1:] - images[..., :-1]).abs().mean())

    assert roughness(hard) > 1.5 * roughness(easy)


def test_outlines() -> None:
    """Every shape has its corners at radius 1, as many as it should, and is narrower between them."""
    angle = torch.linspace(0, 2 * torch.pi, 2401)[:-1].expand(SHAPES, -1)
    radius = outline(angle, torch.arange(SHAPES)[:, None])
    assert radius.amax(1).allclose(torch.ones(SHAPES), atol=1e-4)
    corners = (radius > 0.9999).logical_and(radius.roll(1, 1) <= 0.9999).sum(1)
    assert corners.tolist() == [*POLYGONS, 3, 4, 5, 6, 8]
    assert radius[:4].amin(1).tolist() == pytest.approx([0.5, 0.7071, 0.8090, 0.8660], abs=1e-3)


def test_augmentation_moves_and_mirrors() -> None:
    images = torch.rand(64, 2, 8, 8)
    moved = augment(images, 0, flip=True, generator=torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(moved, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(moved, images, strict=True)]
    assert 16 < sum(mirrored) < 48
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    shifted = augment(images, 2, flip=False, generator=torch.Generator().manual_seed(0))
    assert all(torch.isin(a, b).all() for a, b in zip(shifted, images, strict=True))
    assert not torch.equal(shifted, images)


def test_network() -> None:
    model = MobileNet(3, CLASSES)
    assert 0.25e6 < sum(each.numel() for each in model.parameters()) < 0.7e6
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, CLASSES)


def test_learning_rate() -> None:
    recipe = Recipe(epochs=4, rate=0.2, batch=1)
    rates = [rate_at(step, 10, recipe) for step in range(40)]
    assert rates[9] == rates[10] == max(rates) == 0.2
    assert rates[25] == pytest.approx(0.1)
    assert rates[39] < 0.001


def two_classes(count: int) -> Data:
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 4, 4) * 0.3 + labels[:, None, None, None]
    part = Part(images, labels)
    return Data(part, part, part, classes=2, shift=1, flip=True)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def test_training_learns_and_repeats() -> None:
    torch.manual_seed(0)
    data = two_classes(64)
    models = [small(), small()]
    for model in models:
        train(model, data, Recipe(5, 0.1, 16), seed=1)
    assert accuracy(models[0], data.test) > 90
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_recalibration_gives_the_statistics_of_all_batches() -> None:
    model, images = small(), torch.randn(32, 1, 4, 4)
    recalibrate(model, Part(images, torch.zeros(32)).batches(16))
    seen = model[0](images)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.1
    assert norm.running_mean is not None
    assert norm.running_mean.allclose(seen.mean((0, 2, 3)), atol=1e-5)
    assert not any(each.training for each in model.modules())


def test_gradients_for_torch_pruning(tmp_path: Path) -> None:
    """Squared gradients are the mean over images one by one."""
    torch.manual_seed(0)
    model, data = small().eval(), two_classes(6)
    problem = Problem(model, data, data.train, seed=0, tries=1, folder=tmp_path)
    expected = torch.zeros_like(model[0].weight)  # type: ignore[arg-type]
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(image[None]), label[None]).backward()
        expected += model[0].weight.grad.square() / 6  # type: ignore[union-attr, operator]
    assert gradients(model, problem, "hessian")["0.weight"].allclose(expected, rtol=1e-4)
    assert gradients(model, problem, "magnitude") == {}


def test_methods() -> None:
    names = [each.name for each in METHODS]
    assert len(set(names)) == len(names)
    assert {each.name for each in select_methods(["fxprune *"], ["magnitude"])} == {"fxprune magnitude"}
    assert len(method("fxprune magnitude").variants()) == 2 * len(BUDGETS)
    assert len(method("torch-pruning taylor, 5 steps").variants()) == len(BUDGETS)


def line(name: str, seed: int, accuracies: tuple[float, float, float], *, reconstruct: bool = False) -> dict[str, Any]:
    stages = dict(zip(("pruned", "recalibrated", "3 epochs"), accuracies, strict=True))
    asked = {"stage": "prune", "network": "images/resnet20", "seed": seed, "method": name, "budget": 0.5}
    found = {"flops": 0.49, "params": 0.5, "accuracy": {**stages, "10 epochs": 95.0}}
    seconds = {"prune": 1.0, "tune": 2.0}
    return {**asked, "reconstruct": reconstruct, "status": "ok", **found, "seconds": seconds, "machine": "a machine"}


def test_table() -> None:
    trained = [
        {"stage": "train", "network": "images/resnet20", "seed": seed, "method": "", "status": "ok"}
        | {"accuracy": 90.0, "params": 272_000, "flops": 8e7}
        for seed in (0, 1)
    ]
    pruned = [
        line("fxprune magnitude", 0, (10, 40, 80)),
        line("fxprune magnitude", 1, (20, 50, 80)),
        line("fxprune magnitude", 0, (81, 70, 85), reconstruct=True),
        line("fxprune magnitude", 1, (83, 70, 85), reconstruct=True),
        line("torch-pruning taylor", 0, (50, 60, 90)),
        line("torch-pruning taylor", 1, (50, 64, 90)),
    ]
    text, figures = report([*trained, *pruned], FULL)
    ahead = (
        "| images/resnet20, 50% | right after pruning | 82.0 ± 1.4 (fxprune magnitude + reconstruct) | "
        "62.0 ± 2.8 (torch-pruning taylor) | 20.0 ± 1.4 |"
    )
    assert ahead in text
    assert "| -5.0 ± 0.0 |" in text
    assert "| fxprune magnitude + reconstruct | 90.0 ± 0.0 | 82.0 ± 1.4 | 91.1 ± 1.6 % |" in text
    assert "| torch-pruning taylor | images, labels | 49.0 % | 50.0 % | **50.0 ± 0.0** | **62.0 ± 2.8** |" in text
    assert figures["unpruned"]["images/resnet20"]["mean"] == 90.0


def test_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "quality.jsonl")
    job = Job("prune", "images/resnet20", 0, "fxprune magnitude", (Variant(0.5), Variant(0.5, reconstruct=True)))
    store.add({**line("fxprune magnitude", 0, (1, 1, 1)), "status": "failed"})
    assert store.missing(job, retry=False) == [Variant(0.5, reconstruct=True)]
    assert store.missing(job, retry=True) == list(job.wanted)
    store.add(line("fxprune magnitude", 0, (1, 1, 1)))
    assert store.missing(job, retry=True) == [Variant(0.5, reconstruct=True)]
    assert [each["status"] for each in store.lines()] == ["ok"]


def run_pool(job: Job, tmp_path: Path, limit: float) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    settings = Settings(1, limit, time.monotonic() + 100, (str(tmp_path), "--quick", "--device", "cpu"))
    Pool(settings, lambda _: sys.executable, lambda _, result: results.append(result)).run([job])
    return results


def test_what_fails_is_a_line(tmp_path: Path) -> None:
    """A job without a trained network fails with the reason; one that hangs is ended, and said so."""
    job = Job("prune", "digits/resnet20", 0, "fxprune magnitude", (Variant(0.5), Variant(0.25)))
    results = run_pool(job, tmp_path, 60)
    assert [each["budget"] for each in results] == [0.5, 0.25]
    assert {each["failure"]["type"] for each in results} == {"FileNotFoundError"}
    killed = run_pool(job, tmp_path, 0.5)
    assert [each["failure"]["type"] for each in killed] == ["died", "died"]
    assert threading.active_count() < 10


def test_from_end_to_end(tmp_path: Path) -> None:
    """Train, prune and fine-tune, resume, and the tables."""
    command = [sys.executable, "benchmarks/quality.py", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    chosen = ["--only", "digits/*", "--method", "fxprune magnitude", "--method", "torch-pruning magnitude"]
    first = subprocess.run([*command, *chosen], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = Store(tmp_path / "quality.jsonl").lines()
    assert {each["status"] for each in lines} == {"ok"}, first.stderr
    pruned = [each for each in lines if each["stage"] == "prune"]
    assert {each["method"] for each in pruned} == {"fxprune magnitude", "torch-pruning magnitude"}
    assert all(each["flops"] <= each["budget"] for each in pruned)
    assert all(each["flops"] > 0.9 * each["budget"] for each in pruned if each["method"] == "fxprune magnitude")
    assert all(f"{epochs} epochs" in lines[-1]["accuracy"] for epochs in QUICK.tuning)
    assert "digits/resnet20, 50% | right after pruning" in first.stdout
    size = (tmp_path / "quality.jsonl").stat().st_size
    subprocess.run([*command, *chosen, "--jobs", "0"], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "quality.jsonl").stat().st_size == size
    assert len(json.loads((tmp_path / "quality.json").read_text())["pruned"]) == len(pruned)
