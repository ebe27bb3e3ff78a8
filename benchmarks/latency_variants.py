"""Variants of a model that are the same in all cells: the original, and fxprune's and Torch-Pruning's, by name.

    original          as it is
    tp, tp:N          Torch-Pruning, its ratio bisected to a share of FLOPs; with `round_to=N`
    fxprune, fxprune:N        fxprune at that share; with `align=N`
    fxprune@tp:N      fxprune at the FLOPs that this variant of Torch-Pruning really has, or fewer

Rounded widths fall short of the share that was asked for, so that only the last kind compares at equal FLOPs. fxprune compiles
the model on the device that is measured, where its default alignment follows from; weights are random, which no latency
depends on, and so are not verified.

Bisection takes ten times as long as pruning once. What ratio it came to, and the FLOPs, are kept in `latency_ratios.json`,
and checked again when they are used, so that the time on a lent GPU goes to measuring.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from benchmarks.latency_models import SUBJECTS, Subject, bisect_torch_pruning, flops_of, prune_torch_pruning

TOLERANCE = 1e-3
"""Of the share of FLOPs that a known ratio has to come to again."""
TRIES = 4
"""At a share of FLOPs, as this benchmark counts them."""


@dataclass(slots=True)
class Workshop:
    """Makes variants, each once.

    Attributes:
        device: where fxprune compiles.
        share: of the original's FLOPs.
        ratios: file of known ratios of Torch-Pruning.
        say: tells what was made.
        made: modules by model and variant, on the CPU in float32.
        facts: shares of FLOPs and of parameters, or why a variant could not be made.
    """

    device: torch.device
    share: float
    ratios: Path
    say: Callable[[str], None]
    made: dict[tuple[str, str], nn.Module] = field(default_factory=dict)
    facts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def variants(self, model: str, names: Sequence[str]) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
        """Those that could be made, and facts of all."""
        for name in names:
            self.facts_of(model, name)
        modules = {name: self.made[model, name] for name in names if (model, name) in self.made}
        return modules, {name: self.facts[model, name] for name in names}

    def facts_of(self, model: str, name: str) -> dict[str, Any]:
        """Make a variant, unless it is there; its facts."""
        if (model, name) not in self.facts:
            started = time.perf_counter()
            try:
                module = self._make(model, name).to("cpu")
                self.made[model, name] = module
                self.facts[model, name] = self._shares(model, module)
            except Exception as error:  # a library that fails is a result
                self.facts[model, name] = {"error": f"{type(error).__name__}: {error}"[:300]}
            self.say(f"  {model} {name}: {self.facts[model, name]} in {time.perf_counter() - started:.0f} s")
        return self.facts[model, name]

    def _make(self, model: str, name: str) -> nn.Module:
        subject = SUBJECTS[model]
        if name == "original":
            torch.manual_seed(0)
            return subject.make()
        self.facts_of(model, "original")
        original = self.made[model, "original"]
        kind, _, number = name.partition(":")
        if kind == "tp":
            return self._torch_pruning(model, name, int(number) if number else None)
        if name.startswith("fxprune@"):
            return self._at_flops_of(model, name.removeprefix("fxprune@"))
        return self._compiled(subject, original, self.share, int(number) if number else None)

    def _torch_pruning(self, model: str, name: str, round_to: int | None) -> nn.Module:
        subject, original = SUBJECTS[model], self.made[model, "original"]
        key = f"{model} {name} {self.share}"
        known = _read(self.ratios).get(key)
        if known is not None:
            slim = prune_torch_pruning(subject, original, known["ratio"], round_to)
            if abs(self._shares(model, slim)["flops"] - known["flops"]) <= TOLERANCE:
                return slim
        ratio, slim = bisect_torch_pruning(subject, original, self.share, round_to)
        _write(self.ratios, key, {"ratio": ratio, "flops": self._shares(model, slim)["flops"]})
        return slim

    def _at_flops_of(self, model: str, other: str) -> nn.Module:
        """Compiled to the FLOPs of another variant, as this benchmark counts them."""
        facts = self.facts_of(model, other)
        if "flops" not in facts:
            msg = f"{other} could not be made, whose FLOPs are the budget"
            raise ValueError(msg)
        share = facts["flops"]
        for _ in range(TRIES):
            slim = self._compiled(SUBJECTS[model], self.made[model, "original"], share, None)
            found = self._shares(model, slim)["flops"]
            if found <= facts["flops"]:
                return slim
            share *= facts["flops"] / found - TOLERANCE
        msg = f"{found:.2%} of the FLOPs where {other} has {facts['flops']:.2%}: the two counters disagree"
        raise ValueError(msg)

    def _compiled(self, subject: Subject, original: nn.Module, share: float, align: int | None) -> nn.Module:
        example = subject.example(2).to(self.device)
        moved = original.to(self.device)
        try:
            return fxprune.compile(moved, share, example_inputs=example, align=align, progress=False, verify=False).to(
                "cpu"
            )
        finally:
            original.to("cpu")

    def _shares(self, model: str, module: nn.Module) -> dict[str, float]:
        example, original = SUBJECTS[model].example(1), self.made.get((model, "original"), module)
        flops = flops_of(module.to("cpu"), example) / flops_of(original, example)
        return {"flops": flops, "params": _parameters(module) / _parameters(original)}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _read(file: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _write(file: Path, key: str, found: dict[str, float]) -> None:
    """Add one ratio; the file is replaced whole, so that processes at the same time cannot tear it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {**_read(file), key: found}
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    partial.replace(file)
