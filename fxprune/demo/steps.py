"""The long steps of the demonstration: each shows that it is alive, and how long it took is kept for the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Steps"]


class Steps:
    """Runs one step after the other under a progress bar.

    Attributes:
        seconds: How long the finished steps took, by name.
    """

    def __init__(self, console: Console) -> None:
        """Show progress on `console`."""
        self.seconds: dict[str, float] = {}
        self._console = console

    @contextmanager
    def step(self, name: str, parts: int | None = None) -> Iterator[Callable[[], None]]:
        """Time what happens within; what it yields is called after each of the `parts`, if they are known."""
        columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
        start = time.perf_counter()
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=parts)
            yield lambda: progress.advance(task)
            progress.update(task, total=parts or 1, completed=parts or 1)
        self.seconds[name] = time.perf_counter() - start
