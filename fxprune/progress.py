"""Progress of long work: a bar with a count, a share and an estimate of what is left.

It appears on standard error, if that is a terminal, once something has taken longer than a second, and goes when it is
done. Work inside work gets a line of its own below, in the same display: a terminal has one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fxprune.distributed import is_first

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Item = TypeVar("Item")

PATIENCE_S = 1.0
"""Seconds that work may take before it is shown."""


def track(items: Iterable[Item], what: str, total: int | None = None) -> Generator[Item, None, None]:
    """Go through the items and show how far it is.

    Args:
        items: what the work is done for, one after the other.
        what: what is being done, a few words.
        total: number of items; None for their `len`, if they have one.

    Example:
        >>> [square * square for square in track([1, 2, 3], "squaring")]
        [1, 4, 9]
    """
    if not (is_first() and _can_show()):
        yield from items
        return
    known = len(items) if total is None and isinstance(items, Sized) else total
    task = _TERMINAL.open(what, known)
    try:
        for item in items:
            yield item
            _TERMINAL.advance(task)
    finally:
        _TERMINAL.close(task)


@contextmanager
def showing(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show how far work is that calls back instead of being gone through: each call of what is given is one step.

    Example:
        >>> with showing("building", total=2) as step:
        ...     step()
    """
    if not (is_first() and _can_show()):
        yield lambda: None
        return
    task = _TERMINAL.open(what, total)
    try:
        yield lambda: _TERMINAL.advance(task)
    finally:
        _TERMINAL.close(task)


def _can_show() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


class _Terminal:
    """The process's one display on standard error: made for the first task, gone with the last."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.progress: Progress | None = None
        self.timer: threading.Timer | None = None
        self.tasks: list[TaskID] = []

    def open(self, what: str, total: int | None) -> TaskID:
        """Begin a task; the first one begins the wait after which the display appears."""
        with self.lock:
            if self.progress is None:
                self.progress = _make()
                self.timer = threading.Timer(PATIENCE_S, self._show, [self.progress])
                self.timer.daemon = True
                self.timer.start()
            task = self.progress.add_task(what, total=total)
            self.tasks.append(task)
            return task

    def advance(self, task: TaskID) -> None:
        """One item more is done."""
        if self.progress is not None:
            self.progress.advance(task)

    def close(self, task: TaskID) -> None:
        """End a task; the last one takes the display with it."""
        with self.lock:
            assert self.progress is not None
            assert self.timer is not None
            self.tasks.remove(task)
            self.progress.remove_task(task)
            if not self.tasks:
                self.timer.cancel()
                self.progress.stop()
                self.progress = None

    def _show(self, progress: Progress) -> None:
        with self.lock:
            if self.progress is progress:
                progress.start()


def _make() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    class Bars(Progress):
        """Shows tasks that have taken long enough."""

        def get_renderables(self) -> Iterator[object]:  # type: ignore[override]
            yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0.0) >= PATIENCE_S])

    return Bars(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )


_TERMINAL = _Terminal()
