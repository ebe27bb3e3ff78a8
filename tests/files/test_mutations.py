"""Damaged and hostile files: each is a `CheckpointError` or is read, and nothing of it is executed, imported or opened.

An audit hook sees every `exec`, `compile`, `import` and `open` of the process; what a load may cause are the code that
`torch.fx` generates and the file itself, and what `restore` and `apply` may is what they do with intact files.
"""

from __future__ import annotations

import json
import linecache
import logging
import random
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune import CheckpointError, SlimModule
from fxprune.files.state import named_tensors
from tests.files.mutation import RAW, SOUND, change_plan, members, packed
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


@dataclass(frozen=True)
class Saved:
    """A file, what it was made of, and what it loads to."""

    content: bytes
    plan: str
    model: nn.Module
    inputs: Any
    slim: SlimModule


def load(path: Path, _: Saved) -> nn.Module:
    return fxprune.load(path)


def restore(path: Path, saved: Saved) -> nn.Module:
    return fxprune.restore(saved.model, path)


def apply(path: Path, saved: Saved) -> nn.Module:
    return fxprune.apply(fxprune.Plan.load(path), saved.model, example_inputs=saved.inputs)


READERS = {"load": load, "restore": restore, "apply": apply}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """Files, and what they load to."""
    found: dict[str, Saved] = {}
    for name in ("nested", "tied", "convolutions"):
        path = tmp_path_factory.mktemp(name) / "slim.fxprune"
        slim, model, inputs = compiled(name)
        fxprune.save(slim, path)
        found[name] = Saved(path.read_bytes(), slim.plan.to_json(), model, inputs, fxprune.load(path))
    return found


def heard(read: Callable[[Path, Saved], nn.Module], path: Path, each: Saved) -> tuple[nn.Module | None, str, set[str]]:
    """What is read, or None; what is said of it; what happened meanwhile."""
    with audited() as events:
        try:
            made, said = read(path, each), "it was found intact, so that it loads"
        except CheckpointError as error:
            made, said = None, str(error)
    return made, said, kinds(events, path)


def clean(read: Callable[[Path, Saved], nn.Module], saved: dict[str, Saved], path: Path) -> set[str]:
    """What happens to intact files, once everything that this needs has been imported."""
    for each in saved.values():
        path.write_bytes(each.content)
        read(path, each)
    return {kind for each in saved.values() if path.write_bytes(each.content) for kind in heard(read, path, each)[2]}


def test_a_clean_load_executes_only_the_code_of_the_graph(saved: dict[str, Saved], tmp_path: Path) -> None:
    assert clean(load, saved, tmp_path / "slim.fxprune") == CLEAN


def attack(reader: str, saved: dict[str, Saved], path: Path, seed: int, usual: set[str]) -> bool:
    """Read one mutated file; whether it was refused."""
    rng = random.Random(seed)
    each = saved[rng.choice(sorted(saved))]
    mutation = rng.choice((*RAW, *SOUND))
    path.write_bytes(mutation(rng, each.content))
    made, said, events = heard(READERS[reader], path, each)
    assert 20 < len(said) < 2_000, (seed, mutation)
    assert events <= usual, (seed, mutation)
    if made is not None and mutation in RAW:
        _check_intact(made, each.slim)
    return made is None


def _check_intact(made: nn.Module, original: SlimModule) -> None:
    """Bytes were changed, and yet it was read: what was changed did not matter."""
    if isinstance(made, SlimModule):
        assert made.code == original.code
    tensors = named_tensors(original)
    for name, tensor in named_tensors(made).items():
        assert torch.equal(tensor, tensors[name])


def run(reader: str, saved: dict[str, Saved], folder: Path, seeds: range) -> None:
    path = folder / "slim.fxprune"
    usual = clean(READERS[reader], saved, path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = sum(attack(reader, saved, path, seed, usual) for seed in seeds)
    assert refused > (0.7 if reader != "apply" else 0.3) * len(seeds)  # `apply` reads the plan alone
    assert sorted(each.name for each in folder.iterdir()) == ["slim.fxprune"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize(("reader", "count"), [("load", 200), ("restore", 20), ("apply", 10)])
def test_mutated_files(reader: str, count: int, saved: dict[str, Saved], tmp_path: Path) -> None:
    run(reader, saved, tmp_path, range(count))


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_many_mutated_files(reader: str, saved: dict[str, Saved], tmp_path: Path) -> None:
    run(reader, saved, tmp_path, range(1_000, 3_000))


def test_a_graph_that_cannot_be_run_reads_no_sources(
    saved: dict[str, Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch logs, at the first failure of an interpreter in a process, the stack with its lines from files."""
    each, path, handler = saved["tied"], tmp_path / "slim.fxprune", logging.NullHandler()
    monkeypatch.setattr(linecache, "cache", {})
    usual = clean(restore, saved, path)
    entries = members(each.content)
    graph = json.loads(entries["graph.json"])
    graph["nodes"].insert(1, graph["nodes"][0])  # all calls take the node before the one they took
    path.write_bytes(packed({**entries, "graph.json": json.dumps(graph).encode()}))
    log = logging.getLogger("torch.__trace")
    log.addHandler(handler)
    try:
        _, said, events = heard(restore, path, each)
    finally:
        log.removeHandler(handler)
    assert "the slim module's graph cannot be run" in said
    assert events <= usual


def attack_plan(saved: dict[str, Saved], path: Path, seed: int) -> bool:
    """Apply one mutated plan; whether it was refused."""
    rng = random.Random(seed)
    each = saved[rng.choice(sorted(saved))]
    path.write_bytes(change_plan(rng, each.plan))
    made, said, _ = heard(lambda *_: fxprune.restore(each.model, path, example_inputs=each.inputs), path, each)
    assert 20 < len(said) < 2_000, seed
    return made is None


def test_mutated_plans(saved: dict[str, Saved], tmp_path: Path) -> None:
    assert sum(attack_plan(saved, tmp_path / "plan.json", seed) for seed in range(25)) > 12


@pytest.mark.slow
def test_many_mutated_plans(saved: dict[str, Saved], tmp_path: Path) -> None:
    assert sum(attack_plan(saved, tmp_path / "plan.json", seed) for seed in range(1_000, 3_000)) > 1_000


def test_a_plan_without_groups_but_with_slices_is_refused(saved: dict[str, Saved], tmp_path: Path) -> None:
    each = saved["convolutions"]
    (tmp_path / "plan.json").write_text(json.dumps({**json.loads(each.plan), "kept": {}}))
    with pytest.raises(CheckpointError, match=r"do not keep of grouped\.weight what the plan says"):
        fxprune.restore(each.model, tmp_path / "plan.json", example_inputs=each.inputs)
