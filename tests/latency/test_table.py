"""Tables interpolate what they hold, and their envelope is monotone; the fit finds factors; times are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fxprune.latency.cache import cache_folder, open_times
from fxprune.latency.calibrate import fit, nonnegative
from fxprune.latency.table import Table

LEVELS = (np.array([8.0, 32.0, 64.0]), np.array([16.0, 48.0]))


def test_a_product_s_time_is_exact_between_two_levels() -> None:
    def time(m: float, n: float) -> float:
        return 3 + 2 * m + 5 * n + 0.5 * m * n

    seconds = np.array([[time(m, n) for n in LEVELS[1]] for m in LEVELS[0]])
    sizes = np.array([[8.0, 20.0, 50.0, 64.0], [16.0, 40.0, 17.0, 48.0]])
    np.testing.assert_allclose(Table(LEVELS, seconds).at(sizes), [time(m, n) for m, n in sizes.T])


@given(arrays(np.float64, (3, 2), elements=st.floats(0, 10)))
def test_what_is_looked_up_is_what_is_interpolated(seconds: np.ndarray) -> None:
    table = Table(LEVELS, seconds)
    found = table.everywhere((70, 50))
    assert found is not None
    places = np.stack([each.ravel() for each in np.indices(found.shape)])
    np.testing.assert_allclose(found.ravel(), table.at(places.astype(np.float64)), atol=1e-12)
    assert table.everywhere((10_000, 10_000)) is None


def test_outside_the_grid_the_edge_holds() -> None:
    table = Table((np.array([8.0, 16.0]),), np.array([1.0, 2.0]))
    assert table.at(np.array([[1.0, 100.0]])).tolist() == [1.0, 2.0]
    assert Table((np.array([8.0]),), np.array([7.0])).at(np.array([[3.0, 8.0]])).tolist() == [7.0, 7.0]


@given(arrays(np.float64, (3, 2), elements=st.floats(0, 10)), arrays(np.float64, (2, 6), elements=st.floats(0, 80)))
def test_the_envelope_never_falls_and_never_exceeds_the_time(seconds: np.ndarray, sizes: np.ndarray) -> None:
    table = Table(LEVELS, seconds)
    envelope = table.envelope()
    assert (envelope.at(sizes) <= table.at(sizes) + 1e-9).all()
    assert (envelope.at(sizes + 5) >= envelope.at(sizes) - 1e-9).all()


def test_the_fit_finds_factors_and_overhead() -> None:
    generator = np.random.default_rng(0)
    sums = generator.uniform(1, 10, (12, 2))
    found = fit(sums, 2 + sums @ np.array([0.5, 1.5]))
    np.testing.assert_allclose(found, [2, 0.5, 1.5], atol=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_nonnegative_least_squares_are_scipy_s(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(seed)
    matrix, wanted = generator.normal(size=(8, 4)), generator.normal(size=8)
    np.testing.assert_allclose(nonnegative(matrix, wanted), optimize.nnls(matrix, wanted)[0], atol=1e-9)


def test_times_are_kept_for_their_environment(tmp_path: Path) -> None:
    open_times({"device": "a"}, folder=tmp_path).put({"x": 0.25})
    assert open_times({"device": "a"}, folder=tmp_path).known == {"x": 0.25}
    assert open_times({"device": "b"}, folder=tmp_path).known == {}
    assert open_times({"device": "a"}, folder=tmp_path, keep=False).known == {}


def test_what_another_process_wrote_stays(tmp_path: Path) -> None:
    first, second = (open_times({}, folder=tmp_path) for _ in range(2))
    first.put({"x": 1.0})
    second.put({"y": 2.0})
    assert open_times({}, folder=tmp_path).known == {"x": 1.0, "y": 2.0}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 9, "environment": {}, "seconds": {}}'])
def test_damaged_files_are_left_out_with_a_warning(tmp_path: Path, text: str) -> None:
    times = open_times({}, folder=tmp_path)
    times.put({"x": 1.0})
    assert times.path is not None
    times.path.write_text(text)
    with pytest.warns(UserWarning, match="measured again"):
        fresh = open_times({}, folder=tmp_path)
    assert fresh.known == {}
    with pytest.warns(UserWarning, match="measured again"):
        fresh.put({"y": 2.0})
    assert open_times({}, folder=tmp_path).known == {"y": 2.0}


@pytest.mark.parametrize("value", [-1, "fast", None, True, [1]])
def test_entries_that_are_no_times_are_left_out(tmp_path: Path, value: object) -> None:
    times = open_times({}, folder=tmp_path)
    times.put({"x": 1.0})
    assert times.path is not None
    data = json.loads(times.path.read_text())
    data["seconds"]["y"] = value
    times.path.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="no times"):
        assert open_times({}, folder=tmp_path).known == {"x": 1.0}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    times = open_times({}, folder=tmp_path / "file")
    with pytest.warns(UserWarning, match="cannot be kept"):
        times.put({"x": 1.0})
    assert times.known == {"x": 1.0}


def test_the_cache_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
