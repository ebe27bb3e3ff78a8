"""Many random graphs over many processes, as far as a time limit lets them.

    python -m tests.randomgraphs.long_run --count 20000 --from 0 --jobs 16 --limit-seconds 560 --out FILE

Each process takes a few seeds at a time, checks them as the tests do, and gives up on a seed that hangs. FILE gets a
JSON line for every failure and one for the whole: how many graphs ran, how long, how many mismatches (a result is
wrong), crashes (anything else is raised) and hangs, and which operations occurred. The exit status is 1 if anything
failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fxprune.errors import VerificationError
from fxprune.rules.registry import _TABLE
from tests.randomgraphs import random_module
from tests.semantics.checking import Seen, check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK = 20


@dataclass(slots=True)
class Outcome:
    """What became of some seeds."""

    ran: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)


@dataclass(frozen=True, slots=True)
class Work:
    """Some consecutive seeds, and until when (by the monotonic clock) to begin one."""

    seeds: range
    deadline: float
    hang: int


class HangError(BaseException):
    """A seed took longer than any should; no `except Exception` on the way takes it for a failure of the model."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report, and return the exit status."""
    options = parse(arguments)
    start = time.monotonic()
    work = chunks(options.first, options.count, start + options.limit_seconds, options.hang_seconds)
    total = Outcome()
    with options.out.open("a") as out:
        for outcome in outcomes(work, options.jobs, options.limit_seconds + 2 * options.hang_seconds):
            total.ran += outcome.ran
            total.failures += outcome.failures
            total.seen.add(outcome.seen)
            for failure in outcome.failures:
                print(json.dumps(failure), file=out, flush=True)
        summary = summarise(options, total, time.monotonic() - start)
        print(json.dumps(summary), file=out, flush=True)
    tell(summary)
    return 1 if total.failures else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Random graphs under random plans, in parallel.")
    parser.add_argument("--count", type=int, default=20000, help="how many graphs")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="begin no graph after this long")
    parser.add_argument("--hang-seconds", type=int, default=60, help="give up on a graph after this long")
    parser.add_argument("--out", type=Path, default=Path("random_graphs.jsonl"), help="file that results are added to")
    return parser.parse_args(arguments)


def chunks(first: int, count: int, deadline: float, hang: int) -> list[Work]:
    """The seeds in portions."""
    end = first + count
    return [Work(range(at, min(at + CHUNK, end)), deadline, hang) for at in range(first, end, CHUNK)]


def outcomes(work: Sequence[Work], jobs: int, patience: float) -> Iterator[Outcome]:
    """What becomes of each portion, in the order in which they are done."""
    torch.set_num_threads(1)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    if jobs == 1:
        yield from map(run, work)
        return
    context = multiprocessing.get_context("fork")
    end = time.monotonic() + patience
    with context.Pool(jobs, initializer=torch.set_num_threads, initargs=(1,), maxtasksperchild=25) as pool:
        results = pool.imap_unordered(run, work)
        for position in range(len(work)):
            try:
                yield results.next(timeout=max(end - time.monotonic(), 1.0))
            except multiprocessing.TimeoutError:  # a process died, or hangs where no signal reaches it
                yield Outcome(failures=[lost(len(work) - position)])
                return


def lost(portions: int) -> dict[str, Any]:
    """The failure of portions that never came back."""
    return {
        "seed": None,
        "kind": "hang",
        "error": f"{portions} portions of {CHUNK} seeds never came back",
        "module": "",
    }


def run(work: Work) -> Outcome:
    """Check the seeds one by one."""
    outcome = Outcome()
    for seed in work.seeds:
        if time.monotonic() > work.deadline:
            break
        failure = attempt(seed, outcome.seen, work.hang)
        outcome.ran += 1
        if failure is not None:
            outcome.failures.append(failure)
    return outcome


def attempt(seed: int, seen: Seen, hang: int) -> dict[str, Any] | None:
    """Check one seed: None, or how it failed."""
    module = ""
    try:
        with within(hang):
            model, inputs = random_module(seed)
            module = model.describe()
            check(model, inputs, seed, free_batch=seed % 4 == 0, seen=seen)
    except (Exception, HangError) as error:
        return {
            "seed": seed,
            "kind": kind_of(error),
            "error": f"{type(error).__name__}: {error}",
            "notes": getattr(error, "__notes__", []),
            "module": module,
            "traceback": traceback.format_exc(limit=-4),
        }
    return None


def kind_of(error: Exception | HangError) -> str:
    """A wrong result, a hang, or a crash."""
    if isinstance(error, HangError):
        return "hang"
    return "mismatch" if isinstance(error, AssertionError | VerificationError) else "crash"


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Interrupt what takes longer."""

    def interrupt(*_: object) -> None:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def summarise(options: argparse.Namespace, total: Outcome, seconds: float) -> dict[str, Any]:
    """The last line of the file."""
    kinds = Counter(failure["kind"] for failure in total.failures)
    ruled = {str(operation) for operation in _TABLE}
    return {
        "first": options.first,
        "asked": options.count,
        "count": total.ran,
        "jobs": options.jobs,
        "seconds": round(seconds, 1),
        "mismatches": kinds["mismatch"],
        "crashes": kinds["crash"],
        "hangs": kinds["hang"],
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        **{each.name: getattr(total.seen, each.name) for each in fields(total.seen)},
        "rules_never_met": sorted(ruled - set(total.seen.operations)),
        "never_cut": sorted(set(total.seen.operations) - set(total.seen.cut)),
    }


def tell(summary: dict[str, Any]) -> None:
    """The summary for people."""
    count, seconds = summary["count"], summary["seconds"]
    rate = seconds * summary["jobs"] / max(count, 1)
    print(f"{count} of {summary['asked']} graphs in {seconds} s, {rate:.3f} s each and process")
    print(f"{summary['mismatches']} mismatches, {summary['crashes']} crashes, {summary['hangs']} hangs")
    print(f"{summary['groups']} groups; {len(summary['operations'])} operations met, {len(summary['cut'])} of them cut")
    for title in ("unknown", "never_cut", "rules_never_met"):
        print(f"{title.replace('_', ' ')}: {', '.join(summary[title]) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
