"""Running a scorer: what it raises, and whether what it returns fits the groups."""

from __future__ import annotations

import torch

from fxprune.callbacks import is_users
from fxprune.errors import FxpruneError, InputError, PluginError
from fxprune.groups import Group
from fxprune.mismatch import unlike_examples
from fxprune.passes.finite import NotFiniteError, explained
from fxprune.scorer import Context, Scorer
from fxprune.scores import Scores

MOST_LOOKED_AT = 1024
"""Batches that are gone through for the cause, once something has failed."""


def run_scorer(scorer: Scorer, context: Context) -> Scores:
    """Score, and check that the scores fit the groups.

    Raises:
        InputError: something is not finite, or a batch is unlike the example inputs: says which, and where.
        PluginError: a group has no importances, or of another shape.
    """
    if not context.groups:
        return Scores(scorer.name, {})
    if any(tensor.is_meta for tensor in context.analysis.program.tensors.values()):
        msg = (
            "the model is on the meta device, where tensors have no values: load its weights, score with "
            "fxprune.score(..., weights=), or take fxprune.plan, which decides by shapes and scores alone"
        )
        raise InputError(msg)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            scores: object = scorer.score(context)
    except NotFiniteError as error:
        if context.weights is not None and context.weights.collective:
            raise  # the other processes are not there to fetch weights with
        batches = () if context.data is None else context.batches(MOST_LOOKED_AT)
        raise explained(error, context.analysis.program, batches, context.weights) from error
    except FxpruneError:
        raise
    except Exception as error:
        if is_users(error):
            raise
        batches = () if context.data is None else context.batches(MOST_LOOKED_AT)
        told = unlike_examples(error, context.analysis.program, batches)
        if told is not None:
            raise told from error
        msg = f"the scorer {scorer.name!r} failed: {type(error).__name__}: {error}"
        raise PluginError(msg) from error
    if not isinstance(scores, Scores):
        msg = (
            f"the scorer {scorer.name!r} returned {type(scores).__name__}; score(context) must return fxprune.Scores, see "
            "docs/scorers.md"
        )
        raise PluginError(msg)
    check_scores(scores, context.groups)
    return scores


def check_scores(scores: Scores, groups: tuple[Group, ...]) -> None:
    """Check that there are importances of the right shape for every group.

    Raises:
        PluginError: they are missing for a group, or of another shape.
    """
    for group in groups:
        expected = group.shape
        found = scores.importance.get(group.name)
        if found is None or found.shape != expected:
            what = "no importances" if found is None else f"importances of shape {found.shape}"
            msg = f"the scores of {scores.scorer!r} hold {what} for group {group.name!r}, expected shape {expected}"
            raise PluginError(msg)
