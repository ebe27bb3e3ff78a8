"""Causal language models: how they are told, and their loss on tokens.

Nothing of Transformers is imported: a model is one where its class says that it can generate and has an output embedding,
and its configuration does not speak of an encoder and a decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.batches import Batch
from fxprune.errors import InputError

IGNORED = -100
"""Label of positions that do not count, as in Transformers."""


def is_causal_language_model(model: object) -> bool:
    """Whether a model predicts the next token, as Transformers' models tell.

    Example:
        >>> is_causal_language_model(nn.Linear(2, 2))
        False
    """
    config, generates = getattr(model, "config", None), getattr(model, "can_generate", None)
    head = getattr(model, "get_output_embeddings", None)
    if not isinstance(model, nn.Module) or not callable(generates) or not callable(head):
        return False
    try:
        speaks = bool(generates()) and head() is not None
    except (TypeError, AttributeError, NotImplementedError):  # methods of these names that mean something else
        return False
    return speaks and not getattr(config, "is_encoder_decoder", False)


def next_token_loss(output: Any, batch: Batch) -> tuple[float, int]:
    """Sum of the negative log-likelihoods of the next tokens (natural logarithm), and their number.

    The targets are the batch's `labels` if it has some (-100 does not count), else its tokens; padding does not count.

    Raises:
        InputError: the output holds no logits for the batch's tokens.
    """
    logits, tokens = logits_of(output), tokens_of(batch)
    if logits is None or tokens is None or logits.shape[:2] != tokens.shape:
        msg = (
            "the loss of a language model needs logits [batch, positions, tokens] in the output and `input_ids` (or "
            "`labels`) in each batch; pass score= to say otherwise how good a model is"
        )
        raise InputError(msg)
    targets = tokens[:, 1:].to(logits.device)
    losses = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return float(losses.sum(dtype=torch.float64)), int((targets != IGNORED).sum())


def logits_of(output: Any) -> Tensor | None:
    """The output's logits: by that name, or its first floating-point tensor of three dimensions."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    leaves = [each for each in tree_leaves(output) if isinstance(each, Tensor)]
    return next((each for each in leaves if each.is_floating_point() and each.dim() == 3), None)


def tokens_of(batch: Batch) -> Tensor | None:
    """Targets [batch, positions], -100 where padding stands."""
    named = batch.whole if isinstance(batch.whole, Mapping) else batch.kwargs
    given = named.get("labels", named.get("input_ids", batch.args[0] if batch.args else None))
    if not isinstance(given, Tensor) or given.dim() != 2 or given.is_floating_point():
        return None
    mask = named.get("attention_mask", batch.kwargs.get("attention_mask"))
    if isinstance(mask, Tensor) and mask.shape == given.shape:
        return torch.where(mask != 0, given, IGNORED)
    return given
