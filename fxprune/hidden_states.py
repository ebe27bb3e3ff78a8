"""Distillation of hidden states across a cut: the teacher is looked at where the student still has something.

A slim model's residual stream holds a subset of the original's features, and its blocks are a subset of the original's.
So nothing has to be learnt to compare them: of the teacher's states [..., features] the kept features are taken, and
the state that enters student block j is compared with the one that enters the teacher's block of the same name,

    loss = mean over states of  mean (s - t)^2 / mean t^2

which is free of scale, so that late layers, whose states are large, do not outweigh early ones. Intermediate states as
targets: TinyBERT (Jiao et al., arXiv 1909.10351) and Minitron (arXiv 2407.14679), both with learnt projections, which a
model that was made by selection does not need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import InputError
from fxprune.plan import Plan


def hidden_state_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], plan: Plan | None = None) -> Tensor:
    """How far a student's hidden states are from the teacher's, relative to their size.

    Args:
        student: states `[..., features]`, such as the `hidden_states` of a Transformers output: what enters each block,
            and what leaves the last.
        teacher: those of the original for the same inputs; more features or more states where the plan cut them.
        plan: what was kept of the original (`slim.plan`); needed where features or states differ in number.

    Returns:
        A scalar in float32 or wider; 0 where all states agree.

    Raises:
        InputError: the states cannot be matched; the plan is of another model, or does not say which features are left.

    Example:
        >>> states = [torch.randn(2, 7, 16), torch.randn(2, 7, 16)]
        >>> hidden_state_loss(states, states).item()
        0.0
    """
    if not student:
        msg = "there are no hidden states to compare; ask the model for them (output_hidden_states=True)"
        raise InputError(msg)
    matched = [teacher[at] for at in _matching(len(student), len(teacher), plan)]
    losses = [_difference(own, _kept_features(other, own, plan)) for own, other in zip(student, matched, strict=True)]
    return torch.stack(losses).mean()


def _matching(student: int, teacher: int, plan: Plan | None) -> list[int]:
    """For each of the student's states the number of the teacher's."""
    if student == teacher:
        return list(range(teacher))
    dropped = {_number(name) for name in ([] if plan is None else plan.dropped)}
    kept = [block for block in range(teacher - 1) if block not in dropped]
    if plan is None or len(kept) + 1 != student:
        reason = "no plan is given" if plan is None else f"the plan drops {len(plan.dropped)} blocks"
        msg = f"the student has {student} hidden states, the teacher {teacher}, but {reason}; pass the plan of this student"
        raise InputError(msg)
    return [*kept, teacher - 1]


def _number(block: str) -> int:
    """Position of a block among its siblings: the last number in its path."""
    found = re.findall(r"\d+", block)
    if not found:
        msg = f"block {block!r} has no number, so its hidden states cannot be found; compare states of equal number"
        raise InputError(msg)
    return int(found[-1])


def _kept_features(teacher: Tensor, student: Tensor, plan: Plan | None) -> Tensor:
    """The teacher's state at the features that the student has left."""
    if teacher.shape == student.shape:
        return teacher
    width, original = student.shape[-1], teacher.shape[-1]
    if plan is None or teacher.shape[:-1] != student.shape[:-1]:
        msg = (
            f"the student's hidden state has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; "
            "pass plan=slim.plan where features were cut, and the same inputs to both"
        )
        raise InputError(msg)
    found = {
        tuple(kept)
        for name, kept in plan.kept.items()
        if plan.widths[name] == (width, original) and not isinstance(kept[0], list)
    }
    if len(found) != 1:
        msg = (
            f"the plan has {len(found)} different choices of {width} out of {original} indices, so it does not say which "
            "features a hidden state has left; compare states of equal width"
        )
        raise InputError(msg)
    return teacher.index_select(-1, torch.from_numpy(np.array(found.pop(), np.int64)).to(teacher.device))


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    wide = torch.promote_types(student.dtype, torch.float32)
    own, other = student.to(wide), teacher.detach().to(wide)
    return (own - other).square().mean() / other.square().mean().clamp_min(torch.finfo(wide).tiny)
