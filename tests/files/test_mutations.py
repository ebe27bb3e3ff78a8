"""Damaged and hostile files: each is a `CheckpointError` or loads, and nothing of it is executed, imported or opened.

An audit hook sees every `exec`, `compile`, `import` and `open` of the process; what a load may cause are the code that
`torch.fx` generates and the file itself.
"""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from fxprune import CheckpointError, SlimModule
from fxprune.files.state import named_tensors
from tests.files.mutation import RAW, SOUND
from tests.files.nets import compiled

_WATCHED = ("exec", "compile", "import", "open")
_REFUSED = (
    "os.",
    "subprocess.",
    "shutil.",
    "socket.",
    "ctypes.dlopen",
    "pickle.",
    "urllib",
    "code.__new__",
    "marshal.",
)
_events: list[tuple[str, tuple[Any, ...]]] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _events is not None and (event in _WATCHED or event.startswith(_REFUSED)):
        _events.append((event, args))


sys.addaudithook(_hook)


@contextmanager
def audited() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    global _events
    _events = []
    try:
        yield _events
    finally:
        _events = None


def kinds(events: list[tuple[str, tuple[Any, ...]]], path: Path) -> set[str]:
    """What happened, without what a file or its graph is called."""
    return {_kind(event, args, path) for event, args in events}


def _kind(event: str, args: tuple[Any, ...], path: Path) -> str:
    if event == "open":
        return "open the file" if str(args[0]) == str(path) or isinstance(args[0], int) else f"open {args[0]}"
    if event == "compile":
        return "compile the graph" if str(args[1]).startswith("<eval_with_key>") else f"compile {args[1]}"
    if event == "exec":
        return f"exec {'of the graph' if args[0].co_filename.startswith('<eval_with_key>') else args[0].co_filename}"
    return f"{event} {args[0] if event == 'import' else args}"


CLEAN = {"open the file", "compile the graph", "exec of the graph"}
"""What a load does once everything that it needs has been imported."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, SlimModule]]:
    """Files, and what they load to."""
    found: dict[str, tuple[bytes, SlimModule]] = {}
    for name in ("nested", "tied", "convolutions"):
        path = tmp_path_factory.mktemp(name) / "slim.fxprune"
        fxprune.save(compiled(name)[0], path)
        found[name] = path.read_bytes(), fxprune.load(path)
    return found


def test_a_clean_load_executes_only_the_code_of_the_graph(
    saved: dict[str, tuple[bytes, SlimModule]], tmp_path: Path
) -> None:
    path = tmp_path / "slim.fxprune"
    for content, _ in saved.values():
        path.write_bytes(content)
        with audited() as events:
            fxprune.load(path)
        assert kinds(events, path) == CLEAN


def _loaded(path: Path) -> tuple[SlimModule | None, str]:
    try:
        return fxprune.load(path), "it was found intact, so that it loads"
    except CheckpointError as error:
        return None, str(error)


def attack(saved: dict[str, tuple[bytes, SlimModule]], path: Path, seed: int) -> bool:
    """Load one mutated file; whether it was refused."""
    rng = random.Random(seed)
    content, original = saved[rng.choice(sorted(saved))]
    mutation = rng.choice((*RAW, *SOUND))
    path.write_bytes(mutation(rng, content))
    with audited() as events:
        loaded, said = _loaded(path)
    assert 20 < len(said) < 2_000, (seed, mutation)
    assert kinds(events, path) <= CLEAN, (seed, mutation)
    if loaded is None:
        return True
    if mutation in RAW:
        assert loaded.code == original.code, (seed, mutation)
        tensors = named_tensors(original)
        for name, tensor in named_tensors(loaded).items():
            assert torch.equal(tensor, tensors[name]), (seed, mutation)
    return False


def run(saved: dict[str, tuple[bytes, SlimModule]], folder: Path, seeds: range) -> None:
    path = folder / "slim.fxprune"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = sum(attack(saved, path, seed) for seed in seeds)
    assert refused > 0.7 * len(seeds)
    assert sorted(each.name for each in folder.iterdir()) == ["slim.fxprune"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_mutated_files(saved: dict[str, tuple[bytes, SlimModule]], tmp_path: Path) -> None:
    run(saved, tmp_path, range(200))


@pytest.mark.slow
def test_many_mutated_files(saved: dict[str, tuple[bytes, SlimModule]], tmp_path: Path) -> None:
    run(saved, tmp_path, range(1_000, 3_000))
