"""Progress: silent off a terminal, a bar on one once it takes long, one display for work inside work."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest

from fxprune import progress
from fxprune.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(progress, "PATIENCE_S", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def slow(count: int, seconds: float = 0.03) -> Iterator[int]:
    for number in range(count):
        time.sleep(seconds)
        yield number


def test_silent_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    with redirect_stderr(stream):
        assert list(track(slow(3), "scoring")) == [0, 1, 2]
    assert stream.getvalue() == ""


def test_short_work_is_not_shown(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE_S", 30.0)
    with redirect_stderr(terminal):
        assert list(track([1, 2], "scoring")) == [1, 2]
    assert terminal.getvalue() == ""


def test_long_work_shows_count_and_share(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        assert list(track(slow(12), "scoring", total=12)) == list(range(12))
    shown = terminal.getvalue()
    assert "scoring" in shown
    assert "/12" in shown
    assert "%" in shown
    assert progress._TERMINAL.progress is None


def test_work_inside_work_shares_the_display(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        seen = [(a, b) for a in track(range(2), "candidates") for b in track(slow(8), "batches", total=8)]
    assert len(seen) == 16
    shown = terminal.getvalue()
    assert "candidates" in shown
    assert "batches" in shown
    assert progress._TERMINAL.progress is None


def test_work_that_is_left_or_fails_takes_its_bar_with_it(terminal: Terminal) -> None:
    def failing() -> Iterator[int]:
        yield from slow(3)
        raise RuntimeError("no")

    with redirect_stderr(terminal):
        left = track(slow(10), "left")
        assert next(left) == 0
        assert progress._TERMINAL.progress is not None
        left.close()
        assert progress._TERMINAL.progress is None
        with pytest.raises(RuntimeError, match="no"):
            list(track(failing(), "failing"))
    assert progress._TERMINAL.progress is None
    assert "failing" in terminal.getvalue()
