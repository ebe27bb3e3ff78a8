"""What a model loses without a block: its perplexity on the data, or the drop of the user's `score`.

Of a causal language model without `score` it is the perplexity, exp of the mean loss of the next token, as in Minitron
(arXiv 2407.14679). A score has no natural zero: the least harmful block gets 0, the others what they drop further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fxprune.blocks import Block
from fxprune.depth import without_blocks
from fxprune.language import next_token_loss
from fxprune.passes.finite import NotFiniteError
from fxprune.passes.silence import silenced_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from fxprune.batches import Batch
    from fxprune.scorer import Context

MOST = 700.0
"""Largest mean loss whose exponential a float holds."""


def losses_without(context: Context, blocks: Sequence[Block], limit: int) -> dict[str, float]:
    """Block name -> importance: its perplexity when removed, or how far `score` drops.

    Args:
        context: the model, its data, and the user's score.
        blocks: evaluated one by one.
        limit: largest number of batches.
    """
    by_name = {block.name: block for block in blocks}
    found = context.evaluate(
        [f"without {name}" for name in by_name],
        lambda key: {"loss": loss_of(context, without(context, by_name[key.removeprefix("without ")]), limit)},
        "models without a block",
    )
    losses = {name: float(found[f"without {name}"]["loss"]) for name in by_name}
    if context.score is None:
        return {name: math.exp(min(loss, MOST)) for name, loss in losses.items()}
    return {name: loss - min(losses.values()) for name, loss in losses.items()}


def without(context: Context, *blocks: Block) -> nn.Module:
    """The model without blocks, in eval mode."""
    return silenced_model(without_blocks(context.analysis, blocks), gated=False, own_weights=context.score is not None)


def loss_of(context: Context, model: nn.Module, limit: int) -> float:
    """Minus the user's score, or the mean loss of the next token on the data."""
    if context.score is None:
        return mean_loss(model, context.batches(limit))
    from fxprune.sweep import score_of

    return -score_of(model, context.score)


def mean_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Mean negative log-likelihood of the next token, each token alike.

    Raises:
        NotFiniteError: the batches hold no token to predict, or the loss is not finite.
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            loss, tokens = next_token_loss(batch.run(model), batch)
            total, count = total + loss, count + tokens
    if not count or not math.isfinite(total):
        msg = f"the mean loss of {count} tokens is {total if count else 'undefined'}; check the model and the data"
        raise NotFiniteError(msg)
    return total / count
