"""Whether a plan is of this model: the tensors that it was made for, the groups that it cuts, and what that leaves of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from torch import nn

from fxprune.errors import CheckpointError
from fxprune.groups import Group
from fxprune.plan import Indices, Plan
from fxprune.safe_json import short, shown

_OTHERWISE = "the plan was made with other example inputs, another version of fxprune or torch, or with `ignore=`"


def check_signature(plan: Plan, model: nn.Module) -> None:
    """Compare the parameters and buffers that a plan was made for with those of a model.

    A buffer that the plan does not cut may have another shape: some models make it anew when they run.

    Raises:
        CheckpointError: one is missing, extra, or of another shape.
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))
    found = {n: tuple(t.shape) for n, t in (*model.named_parameters(remove_duplicate=False), *buffers.items())}
    for name, (shape, _) in plan.signature.items():
        if found.get(name) != tuple(shape) and not (name in buffers and name not in plan.slices):
            have = found.get(name, "nothing of that name")
            msg = (
                f"the plan is of another model: {short(name)} has shape {short(str(tuple(shape)))} there, "
                f"{type(model).__name__} has {have}. "
                "Pass the model as it was before compiling, built with the same settings"
            )
            raise CheckpointError(msg)
    extra = [name for name in found if plan.signature and name not in plan.signature]
    if extra:
        kind = type(model).__name__
        msg = f"the plan is of another model: {kind} has {extra[0]}, of shape {found[extra[0]]}, the plan does not"
        raise CheckpointError(msg)


def check_groups(plan: Plan, groups: Iterable[Group]) -> None:
    """Compare the groups that a plan cuts with those of a model: names, and the range and nesting of what is kept.

    Raises:
        CheckpointError: there is no such group, or it cannot keep these indices.
    """
    known = {group.name: group for group in groups}
    for name, indices in plan.kept.items():
        if name not in known:
            msg = f"the plan's group {shown(name)} is not what the model has: {_OTHERWISE}"
            raise CheckpointError(msg)
        group, kept = known[name], np.asarray(indices)
        fits = kept.ndim == 1 or kept.shape[:-1] == group.shape[:-1]
        if not fits or kept.max() >= group.size:
            told, own = (" x ".join(map(str, shape)) for shape in (kept.shape, group.shape))
            msg = (
                f"the plan keeps {told} indices up to {shown(int(kept.max()))} of group {shown(name)}, which has {own}: "
                f"it is damaged, or {_OTHERWISE}"
            )
            raise CheckpointError(msg)
        if kept.shape[-1] < group.least:
            msg = f"the plan keeps {kept.shape[-1]} of the experts {shown(name)}, and the router chooses {group.least}"
            raise CheckpointError(msg)


def check_slices(plan: Plan, found: Mapping[str, Mapping[int, Indices]]) -> None:
    """Compare what a plan leaves of the model's tensors with what its groups do.

    Args:
        plan: without slices, the groups alone count.
        found: what the groups leave, as in the plan.

    Raises:
        CheckpointError: they differ.
    """
    if plan.slices and found != dict(plan.slices):
        name = next(name for name in (*plan.slices, *found) if plan.slices.get(name) != found.get(name))
        msg = f"the plan's groups do not keep of {short(name)} what the plan says: it is damaged, or {_OTHERWISE}"
        raise CheckpointError(msg)
