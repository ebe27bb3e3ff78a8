"""Repair after the cut: reconstruct every layer in closed form, then measure BatchNorm statistics anew, then look.

Calibration data is taken as long as the activations of both models fit in a fixed amount of memory, which is the same on
every machine, so that the result is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.utils._pytree import tree_leaves

from fxprune.analysis import Analysis
from fxprune.batches import Batch, Collect, iterate_batches
from fxprune.blocks import Block
from fxprune.cut import Cut
from fxprune.errors import InputError, VerificationError
from fxprune.evaluating import evaluating
from fxprune.mismatch import unlike_examples
from fxprune.passes.distortion import float_outputs
from fxprune.passes.finite import NotFiniteError, explained
from fxprune.passes.lockstep import flat_inputs
from fxprune.passes.recalibrate import recalibrate
from fxprune.passes.reconstruct import reconstruct
from fxprune.program import Program
from fxprune.slim_module import SlimModule

MEMORY = 4 << 30
"""Bytes of activations that calibration batches may need, about."""


def repair(
    analysis: Analysis,
    cut: Cut,
    slim: SlimModule,
    data: Iterable[Any] | None,
    collect: Collect | None = None,
    *,
    whole: Analysis | None = None,
    dropped: Sequence[Block] = (),
    seed: int = 0,
    memory: int = MEMORY,
) -> tuple[str, ...]:
    """Restore what a slim model computes as far as calibration data shows how; its parameters are changed in place.

    Args:
        analysis: of the original.
        cut: what the slim model kept.
        slim: the slim model.
        data: the user's batches.
        collect: batch -> inputs.
        whole: of the original with the blocks that `analysis` lacks; None where it lacks none.
        dropped: these blocks.
        seed: for the choice of positions.
        memory: bytes of activations.

    Returns:
        What was done, one sentence each.

    Raises:
        InputError: there is no data, or something in it or computed of it is not finite.
        VerificationError: the repaired model returns values that are not finite where the original's are.
    """
    if data is None:
        msg = "reconstruct=True needs data=, an iterable of batches, to see what each layer computed before the cut"
        raise InputError(msg)
    device = next((tensor.device for tensor in analysis.program.tensors.values()), None)
    whole = analysis if whole is None else whole
    batches = within(memory, whole, iterate_batches(data, analysis.program, collect, device))
    try:
        found = reconstruct(analysis, cut, slim, batches, whole=whole.program, dropped=dropped, seed=seed)
        layers = recalibrate(slim, batches)
        _check(analysis.program, slim, batches[0])
    except NotFiniteError as error:
        raise explained(error, whole.program, batches) from error
    except (RuntimeError, IndexError) as error:
        told = unlike_examples(error, analysis.program, batches)
        if told is None:
            raise
        raise told from error
    notes = (found.summary,)
    return (*notes, f"statistics of {layers} BatchNorm layers recalibrated") if layers else notes


def within(memory: int, analysis: Analysis, batches: Iterable[Batch]) -> list[Batch]:
    """The first batches whose activations in both models need about so much memory together; at least one."""
    program = analysis.program
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.tensors.values())
    peak = max(analysis.costs.original["memory"] - weights, 1.0)
    example = _elements((program.args, dict(program.kwargs)))
    found: list[Batch] = []
    needed = 0.0
    for batch in batches:
        _check_ranks(batch, analysis)
        needed += 2 * peak * _elements((batch.args, batch.kwargs)) / example
        if found and needed > memory:
            break
        found.append(batch)
    return found


def _check_ranks(batch: Batch, analysis: Analysis) -> None:
    """The graph was captured for tensors of as many dimensions as the example inputs have."""
    program = analysis.program
    examples = tree_leaves((program.args, dict(program.kwargs)))
    for example, given in zip(examples, tree_leaves((batch.args, batch.kwargs)), strict=False):
        if isinstance(example, Tensor) and isinstance(given, Tensor) and example.dim() != given.dim():
            msg = (
                f"a batch of data holds an input of shape {list(given.shape)} where the example inputs have one of shape "
                f"{list(example.shape)}; pass batches of that many dimensions, or a collect= that makes such inputs of them"
            )
            raise InputError(msg)


def _elements(inputs: Any) -> int:
    """Number of elements of the first tensor."""
    return max(next((each.numel() for each in tree_leaves(inputs) if isinstance(each, Tensor)), 1), 1)


def _check(program: Program, slim: SlimModule, batch: Batch) -> None:
    with torch.no_grad(), evaluating(slim):
        outputs = float_outputs(batch.run(slim))
        if all(bool(each.isfinite().all()) for each in outputs):
            return
        wanted = float_outputs(Interpreter(program.graph_module).run(*flat_inputs(batch), enable_io_processing=False))
    if any(bool(each.isnan().any()) for each in wanted):
        raise NotFiniteError(f"what the model returns for batch {batch.number} of data is nan", batch)
    if not all(bool((each.isfinite() | ~other.isfinite()).all()) for each, other in zip(outputs, wanted, strict=True)):
        msg = (
            "the repaired model returns values that are not finite on its calibration data. Look for such values in the data "
            "and in what the original returns, or pass reconstruct=False"
        )
        raise VerificationError(msg)
