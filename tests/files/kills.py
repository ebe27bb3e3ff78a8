"""Processes killed at random moments: `python -m tests.files.kills --number 200`.

One process imports everything, once, and stays without threads; it forks the ones that are killed (SIGKILL): by turns after
a time drawn up to somewhat more than the work takes, and right before a step in the file system (opening, renaming or
removing a file of its own) drawn from all of its steps. What is killed is started again, and killed again, one, two or four
times or until it comes to its end; then it is left to end. `tests.files.killable` has the work and what has to be so then.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.files.killable import Work, works


@dataclass(frozen=True)
class Course:
    """How work goes when it is left alone: for how many seconds, in how many steps in the file system, to what result."""

    seconds: float
    steps: int
    result: object


FOR_EVER = Course(0.15, 60, None)
"""Of work that has no end: how long it is left alone."""


class Steps:
    """Counts the steps of a process in the file system below a folder, and kills it before a certain one."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last, self.count = str(folder), last, 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.rmtree"):
            return
        if str(args[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Work, folder: Path, last: int | None = None) -> int:
    """Start the work in a process of its own: its number. What it says goes to the file `.log` beside the folder.

    Args:
        work: what to do.
        folder: where.
        last: the step in the file system before which it is killed, if it is.
    """
    assert threading.active_count() == 1
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        with folder.with_suffix(".log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        steps = Steps(folder, last)
        work.act(folder)
        folder.with_suffix(".steps").write_text(str(steps.count))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def ended(pid: int, folder: Path) -> bool:
    """Wait for it: whether it was killed.

    Raises:
        RuntimeError: it failed by itself.
    """
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(folder.with_suffix(".log").read_text())
    return False


def undisturbed(work: Work, folder: Path) -> Course:
    """How the work goes when it is left alone."""
    if work.finished is None:
        return FOR_EVER
    folder.mkdir()
    work.prepare(folder)
    started = time.perf_counter()
    ended(forked(work, folder), folder)
    seconds, steps = time.perf_counter() - started, int(folder.with_suffix(".steps").read_text())
    return Course(seconds, steps, work.finished(folder))


def killed(work: Work, folder: Path, rng: random.Random, course: Course) -> bool:
    """Start the work and kill it at a random moment; False where it came to its end before."""
    if course.steps and rng.random() < 0.5:
        return ended(forked(work, folder, rng.randint(1, course.steps)), folder)
    pid = forked(work, folder)
    time.sleep(rng.uniform(0, 1.05 * course.seconds))
    os.kill(pid, signal.SIGKILL)
    return ended(pid, folder)


def chain(work: Work, folder: Path, rng: random.Random, course: Course, most: int) -> int:
    """Kill the work up to `most` times in a row, and let it end: the number of kills."""
    folder.mkdir()
    work.prepare(folder)
    count = 0
    while count < most and killed(work, folder, rng, course):
        count += 1
        work.check(folder)
    if work.finished is not None:
        ended(forked(work, folder), folder)
        assert work.finished(folder) == course.result, f"{work.name}: another result after {count} kills"
    return count


def run(number: int, seed: int, *names: str) -> dict[str, int]:
    """So many kills, spread over the kinds of work: how many each got."""
    torch.set_num_threads(1)
    importlib.import_module("tqdm").tqdm.monitor_interval = 0  # torch.fx uses it, and its monitor is a thread
    rng, count = random.Random(seed), {}
    chosen = list(works(*names))
    for at, work in enumerate(chosen):
        quota = number // len(chosen) + (at < number % len(chosen))
        with tempfile.TemporaryDirectory() as place:
            course = undisturbed(work, Path(place) / "undisturbed")
            count[work.name] = 0
            for turn in itertools.count():
                if count[work.name] >= quota:
                    break
                most = min(rng.choice((1, 2, 4)), quota - count[work.name])
                count[work.name] += chain(work, Path(place) / f"{turn}", rng, course, most)
    return count


def main() -> None:
    """Kill, and say how often."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--number", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("names", nargs="*", help="kinds of work; all by default")
    options = parser.parse_args()
    started = time.perf_counter()
    count = run(options.number, options.seed, *options.names)
    print("\n".join(f"{name}: {kills} kills, as it has to be" for name, kills in count.items()))
    print(f"{sum(count.values())} kills in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
