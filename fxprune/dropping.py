"""Dropping blocks by number: after scoring, so that the least important ones go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fxprune.carry import carried
from fxprune.depth import Depth, least_important, without_blocks
from fxprune.errors import InputError
from fxprune.exclusive import exclusive
from fxprune.passes.minitron import influences

if TYPE_CHECKING:
    from fxprune.pruning import Subject
    from fxprune.scorer import Context
    from fxprune.scores import Scores


@exclusive
def without_least(
    subject: Subject, scores: Scores, depth: Depth | None, context: Context, *, strict: bool = False
) -> tuple[Subject, Scores]:
    """The subject without its least important blocks, and the scores of what remains.

    Args:
        subject: the whole model.
        scores: its scores; without importances of blocks, their influence is measured with the data.
        depth: how many blocks go; None for none.
        context: the data.
        strict: as for `understand`.

    Raises:
        InputError: there are not that many blocks, or neither importances of blocks nor data.
    """
    if depth is None or depth.count == 0:
        return subject, scores
    blocks = subject.whole.blocks
    known = scores.blocks or _influences(context)
    dropped = least_important(blocks, known, depth)
    analysis = without_blocks(subject.whole, dropped, ignore=subject.ignore, strict=strict)
    sayable = None if subject.sayable is None else subject.sayable.among(subject.analysis, analysis)
    made = replace(subject, dropped=dropped, analysis=analysis, sayable=sayable)
    return made, carried(replace(scores, blocks=known), subject.analysis, analysis)


def _influences(context: Context) -> dict[str, float]:
    if context.data is None:
        msg = (
            "drop= counts blocks, and nothing says which of them matter least: pass data=, scores of blocks "
            '(scorer="minitron"), or names of blocks'
        )
        raise InputError(msg)
    return influences(context)
