from __future__ import annotations

import pytest
import torch

from fxprune.demo.digits import CLASSES, load_digits, shift


def test_parts_share_no_image_and_have_every_class() -> None:
    data = load_digits(side=8, seed=1)
    assert data.train_images.shape[1:] == (1, 8, 8)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert data.train_labels.unique().tolist() == data.test_labels.unique().tolist() == list(range(CLASSES))
    assert data.train_images.mean().item() == pytest.approx(0, abs=1e-4)
    assert data.train_images.std().item() == pytest.approx(1, abs=1e-3)


def test_split_follows_the_seed() -> None:
    first, again, other = (load_digits(side=8, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.test_images, again.test_images)
    assert not torch.equal(first.test_labels, other.test_labels)


def test_shift_moves_each_image_by_a_window_of_the_padded_one() -> None:
    images = torch.arange(2 * 25, dtype=torch.float32).reshape(2, 1, 5, 5)
    moved = shift(images, 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    windows = [[padded[i, 0, r : r + 5, c : c + 5] for r in range(3) for c in range(3)] for i in range(2)]
    assert moved.shape == images.shape
    assert all(any(torch.equal(moved[i, 0], window) for window in windows[i]) for i in range(2))
    assert torch.equal(shift(images, 0, torch.Generator()), images)
