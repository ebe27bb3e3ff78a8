"""What the latency benchmark has measured: a JSON line for each cell, appended when it is done.

A run that is cut short loses nothing, and the next one measures what is missing: variants of a cell that have no record, with the
original beside them. Half a line at the end, of a run that was killed, does not count.
"""

from __future__ import annotations

import fnmatch
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured side by side."""

    model: str
    dtype: str
    backend: str
    batch: int


@dataclass(frozen=True, slots=True)
class Item:
    """A cell with the variants that are measured in it, the original first.

    Attributes:
        question: "flops" (at equal FLOPs) or "latency" (a budget of latency).
        cell: where.
        variants: of the model.
    """

    question: str
    cell: Cell
    variants: tuple[str, ...]

    @property
    def name(self) -> str:
        """What `--only` is matched with: `flops/resnet50/float16/inductor-graphs/64`."""
        cell = self.cell
        return f"{self.question}/{cell.model}/{cell.dtype}/{cell.backend}/{cell.batch}"

    def without(self, known: Iterable[str]) -> Item | None:
        """What is left to measure, with the original beside it; None where nothing is."""
        left = [each for each in self.variants if each not in set(known)]
        own = tuple(dict.fromkeys(("original", *left)))
        return Item(self.question, self.cell, own) if left else None


def chosen(items: Iterable[Item], patterns: Sequence[str]) -> list[Item]:
    """Items whose names match one of the patterns; all where there is none.

    Raises:
        ValueError: a pattern matches nothing.
    """
    everything = list(items)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(item.name, pattern) for item in everything):
            msg = f"--only {pattern} matches nothing; items are, for example, {everything[0].name}"
            raise ValueError(msg)
    return [
        item
        for item in everything
        if not patterns or any(fnmatch.fnmatchcase(item.name, pattern) for pattern in patterns)
    ]


def finished(file: Path, device: str, share: float) -> dict[Cell, set[str]]:
    """Variants of each cell that the file holds, on this device and at this share; what failed counts as measured."""
    found: dict[Cell, set[str]] = defaultdict(set)
    for record in read(file):
        if record["device"] == device and record["share"] == share:
            cell = Cell(record["model"], record["dtype"], record["backend"], record["batch"])
            found[cell] |= set(record["latencies"])
    return found


def read(file: Path) -> list[dict[str, Any]]:
    """Records of the file."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Write one line, on the disk once this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a") as stream:
        stream.write("\n" * half + json.dumps(record) + "\n")
