"""Workers that live for many jobs: one process for each that runs at a time, started again where one dies or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.quality_plan import Job, Variant

ROOT = Path(__file__).resolve().parent.parent
Done = Callable[[Job, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How jobs are run.

    Attributes:
        workers: processes at a time.
        limit: seconds for a job.
        until: `time.monotonic()` at which everything ends, what is at work included.
        arguments: of every worker.
    """

    workers: int
    limit: float
    until: float
    arguments: tuple[str, ...]


@dataclass(slots=True)
class Pool:
    """Hands jobs to workers.

    Attributes:
        settings: how.
        python: the interpreter that has what a job needs.
        done: called with every result, one call at a time.
    """

    settings: Settings
    python: Callable[[Job], str]
    done: Done
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs, in this order, until all are done or the time is up."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        with ThreadPoolExecutor(self.settings.workers) as threads:
            for each in [threads.submit(self._serve, waiting) for _ in range(self.settings.workers)]:
                each.result()

    def _serve(self, waiting: queue.SimpleQueue[Job]) -> None:
        """One thread: a worker at a time, of the interpreter that the next job needs."""
        worker: Worker | None = None
        while time.monotonic() < self.settings.until:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                break
            if worker is None or not worker.serves(self.python(job)):
                if worker is not None:
                    worker.end()
                worker = Worker(self.python(job), self.settings.arguments)
            for result in self._results(worker, job):
                with self._lock:
                    self.done(job, result)
        if worker is not None:
            worker.end()

    def _results(self, worker: Worker, job: Job) -> Iterator[dict[str, Any]]:
        """Results of a job; nothing for what the end of the whole run cut off, so that a rerun does it."""
        seconds = min(self.settings.limit, self.settings.until - time.monotonic())
        timer = threading.Timer(max(seconds, 0), worker.kill)
        timer.start()
        missing = dict.fromkeys(job.wanted)
        try:
            for result in worker.ask(job):
                if "budget" in result:
                    missing.pop(Variant(result["budget"], result["reconstruct"]), None)
                yield result
        except EOFError as error:
            if time.monotonic() < self.settings.until:
                yield from _lost(job, list(missing), str(error))
        finally:
            timer.cancel()


def _lost(job: Job, missing: Sequence[Variant], message: str) -> Iterator[dict[str, Any]]:
    """Lines for what a worker took with it when it died or was ended for its time."""
    asked: dict[str, Any] = {"stage": job.stage, "network": job.network, "seed": job.seed, "method": job.method}
    failure = {"type": "died", "message": message, "where": ""}
    about = [asdict(each) for each in missing] if job.wanted else [{}]
    yield from ({**asked, **each, "status": "failed", "failure": failure} for each in about)


class Worker:
    """A process that answers jobs."""

    def __init__(self, python: str, arguments: Sequence[str]) -> None:
        """Start it."""
        self.python = python
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the worker ends
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.quality_child", *arguments],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def serves(self, python: str) -> bool:
        """Whether it is alive and of this interpreter."""
        return self.python == python and self._process.poll() is None

    def ask(self, job: Job) -> Iterator[dict[str, Any]]:
        """Its answers to a job.

        Raises:
            EOFError: it died, with the last line of its error output.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):
            requests.write(json.dumps(asdict(job)) + "\n")
            requests.flush()
        for line in answers:
            found = json.loads(line)
            if found.get("done"):
                return
            yield found
        self._process.wait()
        raise EOFError(f"exit {self._process.returncode}: {_last(self._errors)}")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self) -> None:
        """End it, if it has not ended by itself."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._errors):
            assert stream is not None
            stream.close()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()


def _environment() -> dict[str, str]:
    """One thread each, no network, and the working tree's own fxprune."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own}


def _last(errors: IO[str]) -> str:
    errors.seek(0)
    lines = [line for line in errors.read().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
