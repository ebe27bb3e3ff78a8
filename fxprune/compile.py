"""The whole way on one screen: capture, analyze, score, search, rewrite, verify, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from torch import Tensor, nn

from fxprune.backends.base import Backend
from fxprune.batches import reiterable
from fxprune.budget import Budget
from fxprune.depth import Drop, counted
from fxprune.dropping import without_least
from fxprune.finished import open_store
from fxprune.grid import Grid, on_grid
from fxprune.kv_cache import KVCache
from fxprune.latency.compiling import (
    build_to_time,
    keep_to_steps,
    predicting,
    refuse_widths,
    times_of,
    with_note,
)
from fxprune.pruning import Making, build, choose_scorer, repairing, score_subject, understand
from fxprune.scorer import Context, Scorer
from fxprune.scores import Scores
from fxprune.slim_module import SlimModule, remember
from fxprune.targets import limits_of, method_of, on_target, split_budget
from fxprune.widths import Align, Floor, alignment_note, follows_gpu, width_ranges


def compile(
    model: nn.Module,
    budget: str | float | Mapping[str, str | float | Mapping[str, int]],
    *,
    example_inputs: Any = None,
    scorer: str | Scorer = "auto",
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    score: Callable[[nn.Module], float] | None = None,
    collect: Callable[[Any], Any] | None = None,
    scores: Scores | str | PathLike[str] | None = None,
    ignore: Sequence[str] = (),
    align: Align | None = None,
    floor: Floor | None = None,
    drop: Drop = (),
    search: str | Grid | None = None,
    seed: int = 0,
    strict: bool = False,
    verify: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
    reconstruct: bool | None = None,
    config: bool = False,
    kv_cache: KVCache | None = None,
    backend: str | Backend | None = None,
    backend_options: Mapping[str, Any] | None = None,
) -> SlimModule:
    """Make a smaller dense model that meets a budget.

    Args:
        model: the trained model; it is never changed, and the result shares no memory with it.
        budget: share of the original FLOPs ("50%", 0.5), or a mapping of `flops`, `params`, `memory` (bytes: weights
            and peak activations at the example inputs; with `kv_cache`, weights and cache), `latency` (of a call with the
            example inputs) to a share or an absolute number ("1.8 GFLOPs", 12e6, "40 MB", "3 ms"), of `throughput` to at
            least ("1500/s", "200%"). All hold. One FLOP is one multiply or one add. `config` asks for exact widths
            instead of a search: numbers of a Transformers configuration, or names of groups
            ({"config": {"intermediate_size": 64}}).
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them: one sample of the first batch
            of `data`, or else what the model says.
        scorer: "auto", the name of a scorer, or an object with `name`, `needs` and `score(context)`.
        data: calibration batches, without labels unless a loss needs them: for scorers, and to repair weights.
        loss: (output, batch) -> scalar tensor, for scorers that need it.
        score: model -> float, higher is better, for scorers that need it.
        collect: batch -> inputs, where a batch is not what `forward` takes.
        scores: of an earlier run on this model (`slim.scores`, or a file that it was saved to), to be used instead of
            scoring again.
        ignore: names of modules or parameters, or `fnmatch` patterns, whose tensors keep their shape.
        align: the multiple that widths are kept to, for all groups or by name or pattern; None for 8, or for 64 where the
            model is on a GPU, whose matrix products are tiled by it (32 for dimensions of heads), and less for layers too
            narrow for that. Numbers of heads are free.
        floor: smallest share (float) or number (int) of indices that a group keeps, for all groups or by name or
            pattern; None for 5 %.
        drop: blocks to drop whole, by name or `fnmatch` pattern (`analyze(model).blocks` lists them), or how many, the
            least important first (a number or `fxprune.Depth`); the budget stays relative to the whole model.
        search: "knapsack" (least total loss), "threshold" (one bound on every loss), "uniform" (one width for the same
            thing in all layers), or a `fxprune.Grid` ("grid"), which tries out candidates of such widths and of depth;
            None for the one that suits the scorer, "knapsack" unless its page says otherwise.
        seed: for scorers that draw random numbers.
        strict: raise where an operation has no rule, instead of leaving alone what it touches.
        verify: compare the result with the original, its cut parts silenced, before returning it.
        checkpoint: file for finished work of the scorer; if the run is interrupted, the same call goes on from there.
        progress: show on the terminal how far long work is.
        reconstruct: solve, with `data`, for the weights that best restore what each layer computed before the cut, and
            recalibrate BatchNorm; None to do so where `data` is given, False to leave weights as cut.
        config: of Transformers models: keep to widths that the configuration can say, so that `apply(slim, model)` gives
            a model that `save_pretrained` and `from_pretrained` bring back (`fxprune.sayable` tells which these are).
        kv_cache: of language models of Transformers: `fxprune.KVCache(batch=8, length=4096)` has `memory` mean the bytes of
            weights and of the key/value cache for so many sequences of so many tokens.
        backend: where latency is measured, by name, on the model's device; None for PyTorch itself ("eager"). Without a
            budget of time only `align` follows from it: the multiples that it is found to compute fast.
        backend_options: of the backend, such as `{"threads": 1}` or `{"mode": "reduce-overhead"}`.

    Returns:
        The slim module, with `.report`, `.plan` and `.scores`.

    Raises:
        InputError: an argument is unusable (also BudgetError for the budget), a block cannot be dropped, or `config=True`
            and the model has no configuration.
        CaptureError: the model cannot be captured.
        InfeasibleBudget: no choice of widths meets the budget; says the smallest value reachable and what holds it
            there.
        CheckpointError: the checkpoint is damaged, in use, or of another run.
        VerificationError: the result is not what it has to be (a bug; nothing is handed out).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> slim = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8))
        >>> slim(torch.randn(5, 8)).shape, slim.plan.widths["0"]
        (torch.Size([5, 4]), (32, 64))
    """
    started = time.perf_counter()
    scores = Scores.load(scores) if isinstance(scores, str | PathLike) else scores
    data = reiterable(data)
    chosen = choose_scorer(scorer, scores, {"model": model, "data": data, "loss": loss, "score": score})
    subject = understand(
        model, example_inputs, data, collect, ignore=ignore, drop=drop, strict=strict, config=config, kv_cache=kv_cache
    )
    target, budget = split_budget(budget, model)
    method = method_of(search, target)
    times, budget = times_of(budget, subject, backend, backend_options, seed=seed, progress=progress)
    refuse_widths(times, method)
    limits = (
        Budget({}, {})
        if times and times.budget and not budget
        else limits_of(budget, target, subject.whole.costs.original)
    )
    context = Context(model, subject.analysis, data, loss, score, collect, seed, align, floor, progress=progress)
    with open_store(checkpoint, chosen, context) as store:
        context = replace(context, store=store)
        scores = score_subject(chosen, scores, subject, context)
        subject, own = without_least(subject, scores, counted(drop), context, strict=strict)
        subject, own, widths = (
            on_grid(subject, own, limits, context, search)
            if target is None
            else on_target(subject, own, limits, context, target)
        )
    ranges = width_ranges(subject.analysis, align, floor)
    told = () if target else alignment_note(subject.analysis, align)
    fast, repairs = follows_gpu(subject.analysis, align), repairing(reconstruct, data, collect)
    making = Making(ranges, method, seed, verify, repairs, told, fast)
    if times is not None and times.budget is not None:
        predictor, making = predicting(model, subject, making, times, align, floor)
        return remember(build_to_time(model, subject, own, limits, making, times, predictor, started), scores)
    if times is not None and align is None and widths is None:
        making, note = keep_to_steps(model, subject, making, times, floor)
        return remember(with_note(build(subject, own, limits, making, started), note), scores)
    return remember(build(subject, own, limits, making, started, widths), scores)
