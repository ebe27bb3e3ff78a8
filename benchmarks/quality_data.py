"""The two tasks as tensors on the device: images to train on, held out from training, and to test on.

Scores and calibration see training and held-out images only; the test images are for the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.quality_images import CLASSES, DIFFICULTY, generate
from benchmarks.quality_plan import Scale

HELD_SHARE = 0.2
"""Of the digits' training images; the generated task has a number of its own."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images `[N, C, H, W]` and their labels `[N]`."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check that every image has its label."""
        assert len(self.images) == len(self.labels)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, picked: slice | Tensor) -> Part:
        """Return some of the images with their labels."""
        return Part(self.images[picked], self.labels[picked])

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """All images in order, in batches of (images, labels)."""
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))


@dataclass(frozen=True, slots=True)
class Data:
    """A task.

    Attributes:
        train: what networks are trained and fine-tuned on, and what calibration images are drawn from.
        held: what score functions measure accuracy on.
        test: what the table's accuracies are measured on.
        classes: number of classes.
        shift: the largest random move of a training image, in pixels.
        flip: whether training images are mirrored at random.
    """

    train: Part
    held: Part
    test: Part
    classes: int
    shift: int
    flip: bool

    def calibration(self, count: int, seed: int) -> Part:
        """Training images drawn at random, without augmentation."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        return self.train[order[:count].to(self.train.labels.device)]


def load(task: str, scale: Scale, device: torch.device, difficulty: float | None = None) -> Data:
    """The data of a task; the same for every seed of training."""
    if task == "digits":
        return _digits(*scale.digits, device)
    return _images(*scale.images, device, DIFFICULTY if difficulty is None else difficulty)


def _images(train: int, held: int, test: int, side: int, device: torch.device, difficulty: float) -> Data:
    seen = Part(*generate(train + held, side=side, seed=0, difficulty=difficulty, device=device))
    unseen = Part(*generate(test, side=side, seed=1, difficulty=difficulty, device=device))
    return Data(seen[:train], seen[train:], unseen, CLASSES, shift=side // 16, flip=True)


def _digits(side: int, most: int, device: torch.device) -> Data:
    from fxprune.demo.digits import CLASSES as TEN
    from fxprune.demo.digits import load_digits

    digits = load_digits(side=side)
    seen = Part(digits.train_images.to(device), digits.train_labels.to(device))[:most]
    unseen = Part(digits.test_images.to(device), digits.test_labels.to(device))[:most]
    held = int(HELD_SHARE * len(seen))
    return Data(seen[held:], seen[:held], unseen, TEN, shift=side // 8, flip=False)


def augment(images: Tensor, most: int, *, flip: bool, generator: torch.Generator) -> Tensor:
    """Move every image by its own random number of pixels, at most `most` along each axis, and mirror half of them.

    What comes in at the edge repeats the edge. The generator is on the images' device, so that nothing waits.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    drawn = torch.rand((3, count, 1), generator=generator, device=images.device)
    moves = (drawn[:2] * (2 * most + 1)).long()
    rows = moves[0] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if flip:
        columns = torch.where(drawn[2] < 0.5, columns, columns.flip(1))
    columns = columns + moves[1]
    picked = torch.arange(count, device=images.device)[:, None, None]
    return padded[picked, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
