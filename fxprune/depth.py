"""Which blocks to drop, as the user names or counts them, and the analysis of the model without them.

Counted blocks go by importance, the least important first: what a scorer says of blocks, or their influence on the stream
(`fxprune.passes.minitron`). Either any blocks, or a run of neighbours with the least total importance, which Minitron found
to lose less where many go (arXiv 2408.11796).
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from fxprune.analysis import Analysis, analyze_program, holds
from fxprune.blocks import Block, Survey, outermost
from fxprune.errors import InputError
from fxprune.passes.drop import drop_blocks
from fxprune.patterns import fold_names


@dataclass(frozen=True, slots=True)
class Depth:
    """How many blocks to drop.

    Attributes:
        count: number of blocks, 0 or more.
        contiguous: whether they have to follow each other.

    Example:
        >>> Depth(2, contiguous=True)
        Depth(count=2, contiguous=True)
    """

    count: int
    contiguous: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no number of blocks."""
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            msg = f"drop={self.count!r} is no number of blocks; pass 0 or more, or names of blocks"
            raise InputError(msg)


Drop: TypeAlias = Sequence[str] | int | Depth


def counted(drop: Drop) -> Depth | None:
    """The number of blocks that an argument `drop` asks for; None where it names blocks."""
    if isinstance(drop, Depth):
        return drop
    return Depth(drop) if isinstance(drop, int) else None


def least_important(blocks: Sequence[Block], importance: Mapping[str, float], depth: Depth) -> tuple[Block, ...]:
    """The blocks to drop, of those that lie in no other one, in the model's order; the later of equals.

    Raises:
        InputError: there are not that many, or not that many in a row.
    """
    candidates = outermost(blocks)
    if not 0 < depth.count < len(candidates):
        if depth.count == 0:
            return ()
        msg = f"drop={depth.count} leaves no block: {len(candidates)} can be dropped, and one has to stay"
        raise InputError(msg)
    if not depth.contiguous:
        order = sorted(range(len(candidates)), key=lambda at: (importance[candidates[at].name], -at))
        return tuple(candidates[at] for at in sorted(order[: depth.count]))
    runs = [candidates[at : at + depth.count] for at in range(len(candidates) - depth.count + 1)]
    runs = [run for run in runs if all(a.family == b.family and a.kind == b.kind for a, b in pairwise(run))]
    if not runs:
        msg = f"drop={depth}: no {depth.count} blocks of one kind follow each other"
        raise InputError(msg)
    return min(reversed(runs), key=lambda run: sum(importance[block.name] for block in run))


def choose_blocks(analysis: Analysis, patterns: Sequence[str]) -> tuple[Block, ...]:
    """The blocks that names or `fnmatch` patterns stand for, in the model's order.

    Args:
        analysis: of the whole model.
        patterns: a name must be a block's; a pattern stands for the blocks that it matches, at least one.

    Raises:
        InputError: a name is no block's, with the reason, or a pattern matches none.
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    if not patterns:
        return ()
    survey = analysis.survey
    chosen = {block.name for pattern in patterns for block in _matching(analysis, survey, pattern)}
    return outermost([block for block in survey.blocks if block.name in chosen])


def without_blocks(
    analysis: Analysis, blocks: Sequence[Block], *, ignore: Sequence[str] = (), strict: bool = False
) -> Analysis:
    """The analysis of the model without `blocks`; patterns of `ignore` that only they matched are passed over."""
    if not blocks:
        return analysis
    program = drop_blocks(analysis.program, blocks)
    given = [ignore] if isinstance(ignore, str) else ignore
    remaining = [pattern for pattern in given if any(holds(pattern, name) for name in program.tensors)]
    return analyze_program(program, ignore=remaining, strict=strict)


def _matching(analysis: Analysis, survey: Survey, pattern: object) -> list[Block]:
    if not isinstance(pattern, str):
        msg = f"drop holds {pattern!r}; pass names of blocks or patterns, for example drop=['layers.3', 'layers.1?']"
        raise InputError(msg)
    found = [block for block in survey.blocks if fnmatch.fnmatchcase(block.name, pattern)]
    if not found:
        raise InputError(_no_match(analysis, survey, pattern))
    return found


def _no_match(analysis: Analysis, survey: Survey, pattern: str) -> str:
    """Why there is no such block, and what there is."""
    refused = [each for each in survey.refusals if fnmatch.fnmatchcase(each.name, pattern)]
    known = fold_names(block.name for block in survey.blocks)
    blocks = f"Blocks that can be dropped: {', '.join(known[:6])}" if known else "This model has no block that can be"
    if refused:
        return f"{refused[0].name} ({refused[0].kind}) cannot be dropped: {refused[0].reason}. {blocks}"
    if pattern in analysis.program.module_types:
        kind = analysis.program.module_types[pattern].__name__
        return f"{pattern} ({kind}) is no block: no other {kind} stands beside it, or it is a container. {blocks}"
    close = difflib.get_close_matches(pattern, [block.name for block in survey.blocks], n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"drop={pattern!r} matches no block of {analysis.program.root.__name__}{hint} {blocks}"
