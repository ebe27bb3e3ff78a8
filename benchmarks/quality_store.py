"""Results on disk: one JSON line each, appended as they come; the last line about the same thing counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.quality_plan import Job, Variant

Key: TypeAlias = tuple[Any, ...]

FIELDS = ("stage", "network", "seed", "method", "budget", "reconstruct")


@dataclass(frozen=True, slots=True)
class Store:
    """The file of results."""

    path: Path

    def add(self, result: dict[str, Any]) -> None:
        """Append a result."""
        with self.path.open("a") as file:
            file.write(json.dumps(result) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The latest result about everything, in order of first appearance."""
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        return list({_key(each): each for each in found}.values())

    def missing(self, job: Job, *, retry: bool) -> list[Variant | None]:
        """Variants of a job that have no result; [None] for a job without variants that has none.

        Args:
            job: what would be done.
            retry: whether a failure counts as no result.
        """
        there = {_key(each) for each in self.lines() if not (retry and each["status"] != "ok")}
        return [each for each in job.wanted or (None,) if _key_of(job, each) not in there]


def _key(result: dict[str, Any]) -> Key:
    own = result.get("difficulty") if result["stage"] == "calibrate" else None
    return (*(result.get(name) for name in FIELDS), own)


def _key_of(job: Job, variant: Variant | None) -> Key:
    asked = {"stage": job.stage, "network": job.network, "seed": job.seed, "method": job.method}
    if variant is not None:
        asked |= {"budget": variant.budget, "reconstruct": variant.reconstruct}
    return _key({**asked, "difficulty": job.difficulty})
