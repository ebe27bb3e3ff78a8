"""Candidate widths and their losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxprune.errors import PluginError
from fxprune.scores import Curve
from fxprune.search import build_choices


@given(
    size=st.integers(1, 5000),
    step=st.integers(1, 128),
    floor=st.integers(0, 6000),
    outer=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_candidates_keep_step_floor_and_order(size: int, step: int, floor: int, outer: int, seed: int) -> None:
    importance = np.random.default_rng(seed).gamma(0.5, size=(outer, size) if outer else (size,))
    choices = build_choices("g", size, importance, step=step, floor=floor)
    inner = choices.widths[:-1]
    assert choices.widths[-1] == size
    assert (inner % step == 0).all()
    assert (inner >= floor).all()
    assert len(choices.widths) <= 66
    assert (np.diff(choices.widths) > 0).all()
    assert (np.diff(choices.loss) <= 0).all()
    assert choices.loss[-1] == 0


def test_all_multiples_are_candidates_where_they_are_few() -> None:
    choices = build_choices("g", 70, np.ones(70), step=16, floor=20)
    assert choices.widths.tolist() == [32, 48, 64, 70]


def test_many_are_thinned_to_a_coarser_step() -> None:
    widths = build_choices("g", 16384, np.ones(16384), step=8, floor=8).widths
    assert widths.tolist() == [8, *range(256, 16385, 256)]


def test_loss_is_the_negative_log_of_retained_energy() -> None:
    choices = build_choices("g", 4, np.array([1.0, 4.0, 2.0, 3.0]), step=1, floor=1)
    np.testing.assert_allclose(choices.loss, -np.log([0.4, 0.7, 0.9, 1.0]))


def test_nested_choice_keeps_the_best_of_each_outer_index() -> None:
    choices = build_choices("g", 2, np.array([[1.0, 3.0], [4.0, 2.0]]), step=1, floor=1)
    np.testing.assert_allclose(choices.loss, [-np.log(0.7), 0.0])


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e300])
def test_extreme_energies_stay_finite(scale: float) -> None:
    choices = build_choices("g", 3, scale * np.array([0.0, 0.0, 1.0]), step=1, floor=1)
    np.testing.assert_array_equal(choices.loss, 0.0)


def test_a_measured_curve_is_interpolated_and_made_monotone() -> None:
    curve = Curve((2, 4, 6, 8), (0.6, 0.1, 0.2, 0.0))
    choices = build_choices("g", 8, np.ones(8), step=1, floor=1, sensitivity=curve)
    np.testing.assert_allclose(choices.loss, [0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.1, 0.0])


def test_a_curve_without_the_full_size_ends_there_in_zero() -> None:
    curve = Curve((2,), (1.0,))
    choices = build_choices("g", 4, np.ones(4), step=1, floor=1, sensitivity=curve)
    np.testing.assert_allclose(choices.loss, [1.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("bad", [[1.0, -1.0], [1.0, np.nan], [1.0, np.inf], [1.0], [[[1.0, 1.0]]]])
def test_unusable_importances_name_the_group(bad: list[float]) -> None:
    with pytest.raises(PluginError, match=r"layer1\.conv"):
        build_choices("layer1.conv", 2, np.array(bad), step=1, floor=1)
