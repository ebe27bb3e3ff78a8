"""Training, fine-tuning, accuracy and BatchNorm recalibration: the same code for every network and every method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.quality_data import Data, Part, augment
from benchmarks.quality_plan import Recipe

TUNING_RATE = 0.5
"""Learning rate of fine-tuning as a share of training's, as in ModelOpt's guide."""

EVALUATION_BATCH = 1000


def train(model: nn.Module, data: Data, recipe: Recipe, seed: int) -> None:
    """Train a model in place on the training part, and leave it in eval mode."""
    generator = torch.Generator(data.train.images.device).manual_seed(seed)
    optimizer = optim.SGD(model.parameters(), recipe.rate, momentum=0.9, nesterov=True, weight_decay=recipe.decay)
    batch = min(recipe.batch, len(data.train))
    in_epoch = len(data.train) // batch  # a last short batch is left out
    model.train()
    with replayed(model, data.train.images[:batch]):
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(data.train), generator=generator, device=generator.device)
            for index in range(in_epoch):
                optimizer.param_groups[0]["lr"] = rate_at(epoch * in_epoch + index, in_epoch, recipe)
                part = data.train[order[index * batch : (index + 1) * batch]]
                images = augment(part.images, data.shift, flip=data.flip, generator=generator)
                loss = functional.cross_entropy(model(images), part.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.eval()


@contextmanager
def replayed(model: nn.Module, images: Tensor) -> Iterator[None]:
    """On a GPU, replay the model's forward and backward in training mode as CUDA graphs: the same kernels, launched at once.

    Args:
        model: in training mode; its buffers are left as they are.
        images: of the shape and type of every batch.
    """
    if images.device.type != "cuda":
        yield
        return
    before = [each.clone() for each in model.buffers()]
    torch.cuda.make_graphed_callables(model, (torch.empty_like(images).copy_(images),), allow_unused_input=True)
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
    try:
        yield
    finally:
        del model.forward  # what make_graphed_callables sets on the instance, over the class's own


def rate_at(step: int, in_epoch: int, recipe: Recipe) -> float:
    """Learning rate of a step: linear up over the warm-up, half a cosine down over the rest."""
    warm, whole = recipe.warm * in_epoch, recipe.epochs * in_epoch
    if step < warm:
        return recipe.rate * (step + 1) / warm
    return recipe.rate * (1 + math.cos(math.pi * (step - warm) / max(whole - warm, 1))) / 2


def tuning_recipe(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe of fine-tuning: half of the learning rate, no warm-up, a whole cosine over its own length."""
    return Recipe(epochs, TUNING_RATE * recipe.rate, recipe.batch, recipe.decay, warm=0)


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """Share of the images that the model names rightly, in percent; the model is left in eval mode."""
    model.eval()
    right = torch.zeros((), dtype=torch.long, device=part.labels.device)
    for images, labels in part.batches(EVALUATION_BATCH):
        right += (model(images).argmax(1) == labels).sum()
    return 100 * int(right) / len(part)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measure BatchNorm statistics anew, in place: their averages over the batches, everything else in eval mode."""
    model.eval()
    layers = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the average over all batches
        layer.train()
    for images, _ in batches:
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
