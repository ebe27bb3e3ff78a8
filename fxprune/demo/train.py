"""A plain training loop: SGD with Nesterov momentum, one cycle of the learning rate, shifted images, soft labels.

The learning rate climbs to its peak and falls to nothing within one run (Smith and Topin 2017); the labels are
smoothed as in Szegedy et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim
from torch.nn import functional

from fxprune.demo.digits import Digits, shift

__all__ = ["Recipe", "accuracy", "train"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how hard to train.

    Attributes:
        epochs: Times that every training image is seen.
        peak_rate: The highest learning rate of the cycle.
        batch: Images to a step.
        decay: Weight decay.
        smoothing: The share of the label that is spread over all classes.
        shift: The largest random move of an image, in pixels.
    """

    epochs: int
    peak_rate: float
    batch: int = 64
    decay: float = 5e-4
    smoothing: float = 0.05
    shift: int = 2

    def __post_init__(self) -> None:
        """Check that there is anything to do."""
        assert self.epochs >= 1
        assert self.batch >= 1


def train(
    model: nn.Module, data: Digits, recipe: Recipe, *, seed: int, tick: Callable[[], object] = lambda: None
) -> None:
    """Train `model` in place on the training part of `data` and leave it in eval mode.

    Args:
        model: What to train.
        data: Where the training images come from.
        recipe: How.
        seed: What decides the order of the images and their moves.
        tick: Called after every epoch, for a progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = optim.SGD(model.parameters(), recipe.peak_rate, momentum=0.9, nesterov=True, weight_decay=recipe.decay)
    steps = recipe.epochs * len(_whole_batches(len(data.train_images), recipe.batch, generator))
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=steps)
    model.train()
    for _ in range(recipe.epochs):
        for picked in _whole_batches(len(data.train_images), recipe.batch, generator):
            images = shift(data.train_images[picked], recipe.shift, generator)
            _step(model, images, data.train_labels[picked], optimizer, recipe.smoothing)
            schedule.step()
        tick()
    model.eval()


def _whole_batches(count: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    """Shuffle `range(count)` and cut it into batches; a last short one is left out: batch normalisation needs many."""
    order = torch.randperm(count, generator=generator)
    batch = min(batch, count)
    return list(order[: count - count % batch].split(batch))


def _step(model: nn.Module, images: Tensor, labels: Tensor, optimizer: optim.Optimizer, smoothing: float) -> None:
    loss = functional.cross_entropy(model(images), labels, label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Return the share of the test images that `model` names rightly, between 0 and 1."""
    model.eval()
    right = int((model(data.test_images).argmax(1) == data.test_labels).sum())
    return right / len(data.test_labels)
