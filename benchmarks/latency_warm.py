"""Compiling for Inductor ahead, in several processes: what they compile lies in Inductor's cache when it is measured.

One module takes Inductor tens of seconds, most of it in one thread, and a lent GPU has more cores than that. A task is one
variant of one model with all cells that it is measured in; a process makes it and calls it once in each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.latency_cells import BACKENDS, OWN, inputs_of, placed
from benchmarks.latency_models import SUBJECTS
from benchmarks.latency_records import Cell, Item
from benchmarks.latency_variants import Workshop
from fxprune.backends.registry import get_backend

Task = tuple[str, str, tuple[Cell, ...]]


def tasks_of(items: Sequence[Item]) -> list[Task]:
    """Model, variant and cells of what Inductor has to compile; what is compiled for a cell is left out."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for item in items:
        if BACKENDS[item.cell.backend][0] == "inductor":
            for variant in item.variants:
                if not variant.startswith(OWN):
                    found.setdefault((item.cell.model, variant), []).append(item.cell)
    return [(*key, tuple(cells)) for key, cells in found.items()]


def warm(
    items: Sequence[Item],
    jobs: int,
    end: float,
    device: torch.device,
    share: float,
    ratios: Path,
    say: Callable[[str], None],
) -> None:
    """Compile what the items need, until the time is up.

    Args:
        items: what will be measured.
        jobs: processes at a time.
        end: `time.monotonic()` after which nothing more is begun.
        device: where modules run.
        share: of the FLOPs, of variants.
        ratios: file of Torch-Pruning's ratios.
        say: tells how far it is.
    """
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(compile_ahead, task, end, str(device), share, ratios): task for task in tasks_of(items)}
        for done in as_completed(waiting):
            try:
                say(done.result())
            except BrokenProcessPool as error:  # the rest is compiled when it is measured
                say(f"  a compiling process died: {error}")


def compile_ahead(task: Task, end: float, device: str, share: float, ratios: Path) -> str:
    """Make a variant and call it once in each of its cells; what was compiled, in a line."""
    model, variant, cells = task
    torch.set_num_threads(1)
    shop = Workshop(torch.device(device), share, ratios, say=lambda _: None)
    if time.monotonic() > end:
        return f"  {model} {variant}: not compiled ahead, the time is up"
    modules, facts = shop.variants(model, [variant])
    if variant not in modules:
        return f"  {model} {variant}: {facts[variant]['error']}"
    started, count, failures = time.perf_counter(), 0, []
    for cell in cells:
        if time.monotonic() > end:
            break
        try:
            _call_once(shop, modules[variant], cell)
            count += 1
        except Exception as error:  # it is told again, and kept, when it is measured
            failures.append(f"{cell.backend} {cell.batch}: {type(error).__name__}")
    told = f", failed: {'; '.join(failures)}" if failures else ""
    return f"  {model} {variant}: {count} of {len(cells)} compiled in {time.perf_counter() - started:.0f} s{told}"


def _call_once(shop: Workshop, module: torch.nn.Module, cell: Cell) -> None:
    subject = SUBJECTS[cell.model]
    name, options = BACKENDS[cell.backend]
    torch.manual_seed(1)
    example = inputs_of(subject, cell, shop.device)
    torch.compiler.reset()
    there = placed(module, subject, cell, shop.device)
    with get_backend(name).prepared(there, example_inputs=((example,), {}), verify=False, **options) as runner:
        runner.run(example)
