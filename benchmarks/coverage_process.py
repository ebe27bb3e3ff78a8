"""Runs measurements in processes of their own, several at a time, each with a limit of time and of resident memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may take.

    Attributes:
        seconds: wall-clock time.
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


def run_all(tasks: Sequence[Task], limits: Limits, jobs: int, done: Callable[[Task, dict[str, Any]], None]) -> None:
    """Run the tasks in order, `jobs` at a time; `done` is called with each result, one call at a time."""
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run_one, task, limits, stop): task for task in tasks}
        try:
            for future in as_completed(waiting):
                done(waiting[future], future.result())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def run_one(task: Task, limits: Limits, stop: threading.Event) -> dict[str, Any]:
    """The result of one process: the last line that it printed, with a status also where it did not end by itself."""
    command = [task.python, "-m", "benchmarks.coverage_child", task.library, task.model, *task.flags]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=out, stderr=errors)
        try:
            ended = watch(process, limits, started, stop)
        finally:
            _end(process)
        found = _last_line(out)
        seconds = round(time.monotonic() - started, 2)
        if ended is not None or "status" not in found:
            found["status"] = ended or "died"
        if found["status"] == "died":
            found["failure"] = _death(process.returncode, errors)
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


def watch(process: subprocess.Popen[Any], limits: Limits, started: float, stop: threading.Event) -> str | None:
    """Wait for the process; "timeout" or "memory" if it goes beyond its limits, "interrupted" if the whole run ends."""
    while process.poll() is None:
        if time.monotonic() - started > limits.seconds:
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


def _end(process: subprocess.Popen[Any]) -> None:
    """End the process, if it has not ended by itself."""
    process.kill()
    process.wait()


def _last_line(out: IO[str]) -> dict[str, Any]:
    """The last whole JSON line."""
    found: dict[str, Any] = {}
    for line in _lines(out):
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
    return found


def _lines(stream: IO[str]) -> Iterator[str]:
    stream.seek(0)
    yield from stream.read().splitlines()


def _death(code: int, errors: IO[str]) -> dict[str, str]:
    """Why a process ended without a result: the last line of its error output."""
    lines = [line for line in _lines(errors) if line.strip()]
    return {"type": f"exit {code}", "message": lines[-1][:300] if lines else "", "where": ""}
