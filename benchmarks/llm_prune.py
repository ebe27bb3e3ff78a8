"""How the language-model benchmark prunes: what each method is asked.

The budget is one of parameters without embeddings, while fxprune's `params` counts all: where the hidden width is cut, the
embeddings shrink too. So numbers are asked for until what is counted comes just under the budget. For
depth, as many layers go as the budget takes; for both, half of them, and widths do the rest.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from benchmarks.llm_plan import LONGER, Case, Scale
from benchmarks.llm_torch_pruning import body
from benchmarks.llm_train import build

ROOT = Path(__file__).resolve().parent.parent
TRIES = 6
CLOSE = 0.985
"""Share of the budget from which on a model is large enough: widths have steps."""
BATCH = 16
LIMIT = 120.0
"""Seconds that Torch-Pruning may take."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A trained model that is to be pruned.

    Attributes:
        model: in eval mode; not to be changed.
        calibration: training windows that methods may look at, `[windows, tokens]`.
        held: held-out windows; for no method to see.
        scale: how large everything is.
        device: where it is computed.
    """

    model: nn.Module
    calibration: Tensor
    held: Tensor
    scale: Scale
    device: str

    @property
    def data(self) -> list[dict[str, Tensor]]:
        """Calibration batches."""
        return [{"input_ids": part.to(self.device)} for part in self.calibration.split(BATCH)]


def prune(case: Case, problem: Problem) -> nn.Module:
    """The pruned model that a case asks for."""
    if case.method == "Torch-Pruning L2":
        return torch_pruning(case, problem)
    if case.method == "from nothing":
        return from_nothing(case, problem)
    scorer, _, repaired = case.method.removesuffix(LONGER).partition(" + ")
    return ours(case, problem, scorer, reconstruct=bool(repaired))


def ours(case: Case, problem: Problem, scorer: str, *, reconstruct: bool) -> nn.Module:
    """Fxprune, with the share met by depth, width or both."""
    layers = problem.scale.shape.num_hidden_layers
    whole = {"depth": 1.0, "both": 0.5, "width": 0.0}[case.mode] * (1 - case.share) * layers
    dropped = dropping(case, problem, scorer, math.ceil(whole - 1e-9))
    make = partial(compiled, problem, scorer, dropped)
    if case.mode == "depth":
        return make("100%", None, reconstruct=reconstruct)
    return largest(problem, case.share, make, reconstruct)


def dropping(case: Case, problem: Problem, scorer: str, number: int) -> dict[str, Any]:
    """Which blocks go: as many as asked, by what the scorer says of them; at random where it says nothing."""
    if not number:
        return {}
    if scorer != "random":
        return {"drop": number}
    layers = problem.scale.shape.num_hidden_layers
    chosen = torch.randperm(layers, generator=torch.Generator().manual_seed(0))[:number].tolist()
    return {"drop": [f"model.layers.{each}" for each in chosen]}


def compiled(
    problem: Problem,
    scorer: str,
    dropped: dict[str, Any],
    params: float | str,
    scores: fxprune.Scores | None,
    *,
    reconstruct: bool,
    verify: bool = True,
) -> fxprune.SlimModule:
    """One call; scores of an earlier one are used again, and what is only counted need not be verified."""
    return fxprune.compile(
        problem.model,
        {"params": params},
        example_inputs={"input_ids": problem.calibration[:2].to(problem.device)},
        scorer=scorer if scores is None else "auto",
        scores=scores,
        data=problem.data if reconstruct or (scorer == "minitron" and scores is None) else None,
        search="uniform",
        align=8,
        reconstruct=reconstruct,
        verify=verify,
        progress=False,
        **dropped,
    )


def largest(problem: Problem, share: float, make: Callable[..., fxprune.SlimModule], reconstruct: bool) -> nn.Module:
    """The largest model within the budget that was met; each number asked for is the last, scaled by how far off it was.

    Raises:
        ValueError: none came within it.
    """
    budget, asked = share * body(problem.model), share * sum(each.numel() for each in problem.model.parameters())
    scores: fxprune.Scores | None = None
    best, most = None, 0
    for attempt in range(TRIES):
        slim = make(asked, scores, reconstruct=False, verify=False)
        scores, size = slim.scores, body(slim)
        if most < size <= budget:
            best, most = asked, size
        if CLOSE * budget <= most:
            break
        asked *= (1 - 0.002 * (1 + attempt)) * budget / size
    if best is None:
        msg = f"nothing came under {budget:,.0f} parameters without embeddings"
        raise ValueError(msg)
    return make(best, scores, reconstruct=reconstruct)


def torch_pruning(case: Case, problem: Problem) -> nn.Module:
    """Torch-Pruning, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        given, out = Path(name) / "given.pt", Path(name) / "out.pt"
        torch.save((problem.model.cpu(), problem.calibration[:2]), given)
        command = [sys.executable, "-m", "benchmarks.llm_torch_pruning", str(given)]
        command += [str(case.share * body(problem.model)), str(out)]
        try:
            subprocess.run(command, check=True, cwd=ROOT, timeout=LIMIT)
        finally:
            problem.model.to(problem.device)
        found: nn.Module = torch.load(out, weights_only=False)
    return found


def from_nothing(case: Case, problem: Problem) -> nn.Module:
    """A model of the shape that Minitron finds, with random weights."""
    slim = ours(case, problem, "minitron", reconstruct=False)
    config = fxprune.apply(slim, problem.model).config
    shape = type(problem.scale.shape)(**{name: getattr(config, name) for name in problem.scale.shape.__slots__})
    return build(shape, problem.scale.training.length, seed=1)
