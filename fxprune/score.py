"""`fxprune.score`: scores by themselves, also of models that no process holds whole.

Scores are what needs data and weights; deciding and cutting need neither. So a model of any size is pruned in three steps:

    with accelerate.init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    scores = fxprune.score(model, "minitron", data=tokens, weights="Llama-3.1-405B", device="cuda")
    plan = fxprune.plan(model, {"params": "70%"}, scores=scores)
    fxprune.apply_to_checkpoint(plan, "Llama-3.1-405B", "Llama-3.1-405B-slim")

where `weights` may also be the module that `torchrun` has spread over processes (`fxprune.weights`). Batches are shared among
the ranks, whoever holds the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.batches import reiterable
from fxprune.capture_errors import first_line
from fxprune.errors import InputError
from fxprune.finished import open_store
from fxprune.pruning import Subject, score_subject, understand
from fxprune.scorer import Context, Scorer, find_scorer
from fxprune.scores import Scores
from fxprune.weights import Given, Weights, stand_in


def score(
    model: nn.Module,
    scorer: str | Scorer = "minitron",
    *,
    data: Iterable[Any] | None = None,
    weights: Given | None = None,
    device: str | torch.device | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    score: Callable[[nn.Module], float] | None = None,
    collect: Callable[[Any], Any] | None = None,
    example_inputs: Any = None,
    ignore: str | Sequence[str] = (),
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
    strict: bool = False,
) -> Scores:
    """Say how important each index of each group of a model is.

    Args:
        model: with its values; or, with `weights`, its modules alone: parameters on the meta device, buffers with values
            or in `weights`. It is never changed.
        scorer: name or object, as for `compile`.
        data: batches, as for `compile`; the same on every rank, which share them.
        weights: where values come from if not from `model`: a checkpoint's folder (safetensors), a module with the same
            names (on several devices, offloaded by accelerate, FSDP2 or tensor-parallel `DTensor`s, or one stage of a
            pipeline in each process), or a mapping. Each is fetched when the forward pass comes to it and let go of after
            its last use. Scorers that go forward only can do with this: "minitron".
        device: where batches are computed, with `weights`; default: the GPU that is chosen, or the CPU.
        loss: as for `compile`.
        score: as for `compile`.
        collect: as for `compile`.
        example_inputs: as for `compile`.
        ignore: as for `compile`.
        seed: for scorers that are random.
        checkpoint: file for finished work, as for `compile`.
        progress: whether long work is shown.
        strict: as for `compile`.

    Returns:
        Scores for `compile`, `plan` or `sweep` (`scores=`); `save` and `Scores.load` keep them.

    Raises:
        InputError: an argument is unusable, or a parameter has no value, or of another shape.
        CaptureError: the model cannot be captured.
        CheckpointError: the checkpoint, or the folder of weights, is damaged.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> scores = fxprune.score(model, "minitron", data=[torch.randn(16, 8)])
        >>> scores.importance["0"].shape
        (64,)
    """
    data, chosen = reiterable(data), find_scorer(scorer)
    if weights is None:
        if device is not None:
            msg = "device= goes with weights=; without them batches are computed where the model is: move the model"
            raise InputError(msg)
        subject = understand(model, example_inputs, data, collect, ignore=ignore, drop=(), strict=strict)
        context = Context(model, subject.analysis, data, loss, score, collect, seed, progress=progress)
        return _scored(chosen, subject, context, checkpoint)
    if not getattr(chosen, "streams", False):
        msg = f'the scorer {chosen.name!r} needs the whole model at once; with weights= take "minitron"'
        raise InputError(msg)
    shell = stand_in(model, weights)
    subject = understand(shell, example_inputs, data, collect, ignore=ignore, drop=(), strict=strict)
    source = Weights(subject.whole.program, weights, _device(device))
    try:
        context = Context(shell, subject.analysis, data, loss, score, collect, seed, progress=progress, weights=source)
        return _scored(chosen, subject, context, checkpoint)
    finally:
        source.close()


def _scored(chosen: Scorer, subject: Subject, context: Context, checkpoint: str | PathLike[str] | None) -> Scores:
    with open_store(checkpoint, chosen, context) as store:
        return score_subject(chosen, None, subject, replace(context, store=store))


def _device(device: str | torch.device | None) -> torch.device:
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            msg = f"device={str(device)!r} cannot be used: {first_line(error)}"
            raise InputError(msg) from error
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
