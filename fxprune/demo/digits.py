"""The data of the demonstration: scikit-learn's handwritten digits, which come with the library.

1,797 grey images of 8 x 8 pixels in ten classes (UCI, Alpaydin and Kaynak 1998). They are enlarged bilinearly, so that
a network made for larger images has something to convolve over, and split with equal shares of every class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["CLASSES", "Digits", "load_digits", "shift"]

CLASSES = 10
BRIGHTEST = 16.0
"""The largest grey value in the data set."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Images `[N, 1, side, side]` of zero mean and unit variance over the training set, labels `[N]`, in two parts."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __post_init__(self) -> None:
        """Check that every image has its label."""
        assert len(self.train_images) == len(self.train_labels)
        assert len(self.test_images) == len(self.test_labels)


def load_digits(*, side: int = 16, test_share: float = 0.25, seed: int = 0) -> Digits:
    """Read the digits and split them.

    Args:
        side: Height and width in pixels that the images are enlarged to.
        test_share: The share of the images that training never sees.
        seed: What decides which images those are.

    Returns:
        The two parts.
    """
    from sklearn import datasets, model_selection

    pixels, labels = datasets.load_digits(return_X_y=True)
    train, test, train_labels, test_labels = model_selection.train_test_split(
        pixels, labels, test_size=test_share, random_state=seed, stratify=labels
    )
    train_images, test_images = (_enlarge(torch.from_numpy(part), side) for part in (train, test))
    mean, deviation = train_images.mean(), train_images.std()
    return Digits(
        (train_images - mean) / deviation,
        torch.from_numpy(train_labels),
        (test_images - mean) / deviation,
        torch.from_numpy(test_labels),
    )


def _enlarge(pixels: Tensor, side: int) -> Tensor:
    images = pixels.to(torch.float32).reshape(-1, 1, 8, 8) / BRIGHTEST
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def shift(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move every image by its own random number of pixels, at most `most` along each axis.

    Args:
        images: `[N, C, H, W]`.
        most: The largest move in pixels.
        generator: Where the randomness comes from.

    Returns:
        Images of the same shape; what comes in at the edge repeats the edge.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (most, most, most, most), mode="replicate")
    moves = torch.randint(0, 2 * most + 1, (2, len(images), 1), generator=generator)
    rows = moves[0] + torch.arange(height)
    columns = moves[1] + torch.arange(width)
    picked = torch.arange(len(images))[:, None, None]
    return padded[picked, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
