"""Runs measurements in processes of their own, several at a time, each with a limit of time and of resident memory.

They are forks of a process that has imported the libraries (`coverage_warm.py`), one for each library that is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.2
PATIENCE = 10.0
"""Seconds that a process may take to end once it is told to."""

IMPORTS = 120.0
"""Seconds that a warm process may take before it forks."""

SLACK = 30.0
"""Wall-clock time over processor time: a process that waits for nothing gets to its end too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may take.

    Attributes:
        seconds: processor time, so that other work on the machine costs nobody a result; thirty times as long by the clock.
        mebibytes: resident memory.
    """

    seconds: float
    mebibytes: float


@dataclass(frozen=True, slots=True)
class Task:
    """One model for one library.

    Attributes:
        library: name of the library.
        model: name of the zoo's entry.
        python: the interpreter that has the library.
        flags: further arguments of the measurement.
    """

    library: str
    model: str
    python: str
    flags: tuple[str, ...] = ()


class Process(Protocol):
    """What is watched."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""


@dataclass(frozen=True, slots=True)
class Fork:
    """A measurement that a warm process has begun.

    Attributes:
        pid: its number.
        folder: where its exit code appears.
    """

    pid: int
    folder: Path

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return _number(self.folder / "code")

    def end(self) -> None:
        """End it, if it has not ended by itself, and wait a little for that."""
        until = time.monotonic() + PATIENCE
        while self.poll() is None and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)


class Warm:
    """Processes with the libraries imported, one for each interpreter and library of the tasks."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Begin them all."""
        self._lock = threading.Lock()
        self._processes = {
            (python, library): subprocess.Popen(
                [python, "-m", "benchmarks.coverage_warm", library],
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.PIPE,
                text=True,
            )
            for python, library in dict.fromkeys((task.python, task.library) for task in tasks)
        }

    def begin(self, task: Task, folder: Path) -> Fork:
        """Have a task forked off."""
        line = json.dumps([str(folder), task.library, task.model, *task.flags])
        process = self._processes[task.python, task.library]
        assert process.stdin is not None
        with self._lock:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        until = time.monotonic() + IMPORTS
        while (pid := _number(folder / "pid")) is None:
            if process.poll() is not None or time.monotonic() > until:
                msg = f"{task.python} forks nothing that could measure {task.library}"
                raise RuntimeError(msg)
            time.sleep(0.02)
        return Fork(pid, folder)

    def end(self) -> None:
        """End them all."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def run_all(tasks: Sequence[Task], limits: Limits, jobs: int, done: Callable[[Task, dict[str, Any]], None]) -> None:
    """Run the tasks in order, `jobs` at a time; `done` is called with each result, one call at a time."""
    stop, warm = threading.Event(), Warm(tasks)
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run_one, task, limits, warm, stop): task for task in tasks}
        try:
            for future in as_completed(waiting):
                done(waiting[future], future.result())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            warm.end()


def run_one(task: Task, limits: Limits, warm: Warm, stop: threading.Event) -> dict[str, Any]:
    """The result of one process: the last line that it printed, with a status also where it did not end by itself."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = warm.begin(task, folder)
        started = time.monotonic()
        try:
            ended = watch(process, limits, started, stop)
        finally:
            process.end()
        found = _last_line(folder / "out")
        seconds = round(time.monotonic() - started, 2)
        if ended is not None or "status" not in found:
            found["status"] = ended or "died"
        if found["status"] == "died":
            found["failure"] = _death(process.poll() or 0, folder / "errors")
        return {**found, "total_seconds": seconds}


def _environment() -> dict[str, str]:
    """One thread, no network, no GPU, and the working tree's own fxprune."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**os.environ, **own}


def watch(process: Process, limits: Limits, started: float, stop: threading.Event) -> str | None:
    """Wait for the process; "timeout" or "memory" if it goes beyond its limits, "interrupted" if the whole run ends."""
    while process.poll() is None:
        if max(processor_time(process.pid), (time.monotonic() - started) / SLACK) > limits.seconds:
            return "timeout"
        if resident(process.pid) > limits.mebibytes:
            return "memory"
        if stop.wait(PAUSE):
            return "interrupted"
    return None


def resident(pid: int) -> float:
    """Resident memory of a process in MiB; 0 where the system does not tell."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def processor_time(pid: int) -> float:
    """Seconds that a process has computed for; 0 where the system does not tell."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _number(path: Path) -> int | None:
    """What a file says, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        return int(path.read_text())
    return None


def _last_line(out: Path) -> dict[str, Any]:
    """The last whole JSON line."""
    found: dict[str, Any] = {}
    for line in _lines(out):
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _death(code: int, errors: Path) -> dict[str, str]:
    """Why a process ended without a result: the last line of its error output."""
    lines = [line for line in _lines(errors) if line.strip()]
    return {"type": f"exit {code}", "message": lines[-1][:300] if lines else "", "where": ""}
