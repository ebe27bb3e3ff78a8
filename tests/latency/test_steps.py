"""Steps in measured times are found, and widths are kept to them; where there are none, nothing is assumed."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import fxprune
from fxprune.latency.steps import Curve, step_in
from fxprune.latency.table import suspicious
from tests.latency.fake import FakeBackend
from tests.latency.nets import IMAGES

WIDTHS = np.arange(128, 193, 8)


@pytest.mark.parametrize("tile", [8, 16, 32, 64])
def test_the_tile_is_found(tile: int) -> None:
    seconds = np.ceil(WIDTHS / tile) * tile * 1e-6 + 3e-5
    assert step_in([Curve(WIDTHS, seconds)], 8) == tile


def test_noise_is_no_step() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        seconds = WIDTHS * 1e-6 * generator.normal(1, 0.01, len(WIDTHS))
        assert step_in([Curve(WIDTHS, seconds)], 8) <= 16
    assert step_in([Curve(WIDTHS, np.full(len(WIDTHS), 1e-6))], 8) == 8


def test_noise_does_not_hide_a_tile_or_double_it() -> None:
    """As measured: four curves of a convolution in ONNX Runtime with a percent of noise, one of which has an outlier."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(100):
        curves = [Curve(WIDTHS, np.ceil(WIDTHS / 16) * generator.normal(1, 0.01, len(WIDTHS))) for _ in range(4)]
        curves[0].seconds[5] *= 0.85
        found.append(step_in(curves, 8))
    assert found == [16] * 100


def test_what_takes_most_time_decides() -> None:
    coarse, fine = (np.ceil(WIDTHS / tile).astype(np.float64) for tile in (32, 1))
    assert step_in([Curve(WIDTHS, coarse, 3.0), Curve(WIDTHS, fine, 1.0)], 8) == 32
    assert step_in([Curve(WIDTHS, coarse, 1.0), Curve(WIDTHS, fine, 3.0)], 8) == 8


def test_outliers_are_no_step_and_are_suspicious() -> None:
    seconds = np.where(np.isin(np.arange(len(WIDTHS)), [2, 5]), 3.0, 1.0) * WIDTHS.astype(np.float64)
    assert step_in([Curve(WIDTHS, seconds)], 8) < 64
    assert suspicious(seconds) == [2, 5]


def test_what_is_slower_between_multiples_is_a_step() -> None:
    seconds = np.where(WIDTHS % 64 == 0, WIDTHS * 1e-6, WIDTHS * 1.5e-6)
    assert step_in([Curve(WIDTHS, seconds)], 8) == 64
    falling = np.where(WIDTHS % 64 == 0, 1e-6 - WIDTHS * 1e-10, 2e-6)
    assert step_in([Curve(WIDTHS, falling)], 8) == 64


@pytest.mark.parametrize(("tile", "multiple"), [(1, 8), (32, 32)])
def test_widths_are_kept_to_what_was_learnt(
    tile: int, multiple: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(gc, "collect", lambda: 0)
    net = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 192, 3), nn.ReLU(), nn.Conv2d(192, 8, 1))
    slim = fxprune.compile(net, {"latency": "40%"}, example_inputs=(IMAGES,), backend=FakeBackend(tile=tile))
    widths = [kept for kept, size in slim.plan.widths.values() if size > 8]
    assert np.gcd.reduce(widths) % multiple == 0
    assert f"conv2d {multiple}" in slim.report.notes[-1]
    flops = fxprune.compile(net, "50%", example_inputs=(IMAGES,), backend=FakeBackend(tile=tile))
    assert np.gcd.reduce([kept for kept, size in flops.plan.widths.values() if size > 8]) % multiple == 0
    assert f"learnt from measured times of fake on an abacus: conv2d {multiple}" in flops.report.notes[-1]

    given = fxprune.compile(net, {"latency": "40%"}, example_inputs=(IMAGES,), backend=FakeBackend(tile=tile), align=24)
    assert all(kept % 24 == 0 for kept, size in given.plan.widths.values() if kept < size)
