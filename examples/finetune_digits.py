"""Train, prune, fine-tune: handwritten digits, less than a minute on one core.

    python examples/finetune_digits.py

A small convolutional network is trained, then pruned to a quarter of its FLOPs in three ways: in one step and fine-tuned on
the labels; in one step and fine-tuned with the original as its teacher; in three stages with fine-tuning after each. All
see the same number of batches in fine-tuning, at the learning rate of the training. Needs scikit-learn.
"""

from __future__ import annotations

import copy

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

import fxprune

EPOCHS = 12
RATE = 2e-3
BUDGET = "25%"


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels [N]: 1,347 to train on, 450 to test on."""
    pixels, labels = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)[order] / 8 - 1
    targets = torch.from_numpy(labels)[order]
    return images[:1347], targets[:1347], images[1347:], targets[1347:]


def network() -> nn.Module:
    """Three convolutions and a classifier."""
    layers: list[nn.Module] = []
    for inside, outside, stride in ((1, 32, 1), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(
    model: nn.Module, images: Tensor, labels: Tensor, epochs: int, distiller: fxprune.Distiller | None = None
) -> None:
    """A plain loop, for the original and for slim modules alike."""
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    model.train()
    for _ in range(epochs):
        for picked in torch.randperm(len(images), generator=random).split(64):
            output = model(images[picked])
            loss = functional.cross_entropy(output, labels[picked])
            if distiller is not None:
                loss = distiller(output, images[picked], loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def main() -> None:
    """Train once, prune and fine-tune three times, print the accuracies."""
    torch.manual_seed(0)
    images, labels, test_images, test_labels = load()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return (model(test_images).argmax(1) == test_labels).float().mean().item()

    model = network()
    train(model, images, labels, EPOCHS)
    print(f"original                            {accuracy(model):.1%}")

    slim = fxprune.compile(model, BUDGET, example_inputs=images[:1])
    distilled = copy.deepcopy(slim)
    print(f"pruned to {BUDGET} of the FLOPs          {accuracy(slim):.1%}")

    train(slim, images, labels, EPOCHS)
    print(f"fine-tuned on labels                {accuracy(slim):.1%}")

    train(distilled, images, labels, EPOCHS, fxprune.Distiller(model))
    print(f"fine-tuned with its teacher         {accuracy(distilled):.1%}")

    def finetune(stage: nn.Module) -> None:
        train(stage, images, labels, EPOCHS // 3, fxprune.Distiller(model))

    staged = fxprune.iterate(model, BUDGET, steps=3, finetune=finetune, example_inputs=images[:1])
    print(f"in three stages, with its teacher   {accuracy(staged):.1%}")


if __name__ == "__main__":
    main()
