"""What becomes of every tensor of a checkpoint: its name, its slices and its shape afterwards, or that it goes.

The plan knows the model's parameters and buffers (its signature), which of them are one tensor (`plan.tied`) and which are
not saved (`plan.unsaved`). The checkpoint has to hold just these, of tied ones at least one; anything else, and any other
shape or type, is refused: a plan that does not fit is not to be half applied. Only one difference is bridged: a prefix that
all names have in one of the two and none in the other, as between a model and the model inside it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from fxprune.errors import CheckpointError
from fxprune.plan import Indices, Plan
from fxprune.shards.renumber import is_below, renumbered
from fxprune.shards.stored import BYTES, Stored


@dataclass(frozen=True, slots=True)
class Fate:
    """One tensor that remains.

    Attributes:
        stored: where it is now.
        name: what it is called afterwards.
        slices: dimension -> kept indices, as in `plan.slices`.
        shape: sizes afterwards.
    """

    stored: Stored
    name: str
    slices: Mapping[int, Indices]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes afterwards."""
        before, after = prod(self.stored.shape), prod(self.shape)
        return self.stored.size if before == after else self.stored.size // before * after


def decide(
    plan: Plan, tensors: Iterable[Stored], *, extra: Sequence[str] = (), any_dtype: bool = False
) -> dict[str, Fate]:
    """Name of each tensor of the checkpoint that remains -> its fate.

    Args:
        plan: with the signature of the model.
        tensors: all of the checkpoint.
        extra: patterns of tensors that the model does not have, to be kept as they are.
        any_dtype: whether types may differ from those of the plan.

    Raises:
        CheckpointError: the plan has no signature, or is not of this checkpoint.
    """
    if not plan.signature:
        msg = "the plan has no signature, so that nothing says which tensors it is of; make it again"
        raise CheckpointError(msg)
    stored = {each.name: each for each in tensors}
    more = {
        name for name in stored if any(fnmatch.fnmatchcase(name, pattern) for pattern in extra)
    } - plan.signature.keys()
    names = _match(plan, [name for name in stored if name not in more])
    _check(plan, names, stored, any_dtype=any_dtype)
    fates = {name: Fate(each, name, {}, each.shape) for name, each in stored.items() if name in more}
    for name, known in names.items():
        kept = _surviving(plan, known, set(names.values()))
        if kept is not None:
            fates[name] = _fate(
                stored[name], _renamed(name, known, renumbered(kept, plan.dropped)), plan.slices.get(kept, {})
            )
    return fates


def _renamed(name: str, known: str, after: str) -> str:
    """What the plan calls `after`, in the checkpoint's words: with its prefix, or without the plan's."""
    longer = len(name) - len(known)
    return name[:longer] + after if longer >= 0 else after[-longer:]


def _match(plan: Plan, names: Sequence[str]) -> dict[str, str]:
    """Name in the checkpoint -> name in the plan."""
    candidates = _candidates(plan, names)
    found = min(candidates, key=lambda each: len(_missing(plan, each.values())) + len(_unexpected(plan, each)))
    missing, unexpected = _missing(plan, found.values()), _unexpected(plan, found)
    if not missing and not unexpected:
        return found
    told = []
    if missing:
        shape, dtype = plan.signature[missing[0]]
        told.append(f"it lacks {missing[0]!r} (expected {dtype} {list(shape)}){_more(missing)}")
    if unexpected:
        told.append(f"it has {unexpected[0]!r}, which the plan's model has not{_more(unexpected)}")
    msg = (
        f"the plan is not of this checkpoint: {'; '.join(told)}. Plan with the class that the checkpoint was saved from, "
        "or name tensors that no model needs in extra= (--extra) to keep them as they are"
    )
    raise CheckpointError(msg)


def _unexpected(plan: Plan, names: Mapping[str, str]) -> list[str]:
    return [name for name, known in names.items() if known not in plan.signature]


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _candidates(plan: Plan, names: Sequence[str]) -> list[dict[str, str]]:
    """As they are; with a prefix of the plan's added; with one of the checkpoint's taken off."""
    found = [{name: name for name in names}]
    found += [{name: prefix + name for name in names} for prefix in _prefixes(plan.signature)]
    found += [{name: name.removeprefix(prefix) for name in names} for prefix in _prefixes(names)]
    return [each for each in found if len(set(each.values())) == len(names)]


def _prefixes(names: Iterable[str]) -> list[str]:
    """First parts of names, each with its dot."""
    return list(dict.fromkeys(name.partition(".")[0] + "." for name in names if "." in name))


def _missing(plan: Plan, found: Iterable[str]) -> list[str]:
    """What the checkpoint would have to hold, in the plan's names."""
    held = {plan.tied.get(name, name) for name in found}
    return [name for name in plan.signature if name not in plan.unsaved and plan.tied.get(name, name) not in held]


def _check(plan: Plan, names: Mapping[str, str], stored: Mapping[str, Stored], *, any_dtype: bool) -> None:
    for name, known in names.items():
        shape, dtype = plan.signature[known]
        found = stored[name]
        if found.shape != tuple(shape) or (found.type != dtype and not any_dtype):
            same = (
                " Types do not matter to the cut: any_dtype=True (--any-dtype)" if found.shape == tuple(shape) else ""
            )
            msg = (
                f"the plan is not of this checkpoint: {name!r} is {found.type} {list(found.shape)} there, expected "
                f"{dtype} {list(shape)}.{same}"
            )
            raise CheckpointError(msg)


def _surviving(plan: Plan, name: str, held: Container[str]) -> str | None:
    """The name under which a tensor remains: its own, or one that it is tied to; None if it goes with its block."""
    if not is_below(name, plan.dropped):
        return name
    stands = plan.tied.get(name, name)
    names = [
        each for each in plan.signature if plan.tied.get(each, each) == stands and not is_below(each, plan.dropped)
    ]
    return None if any(each in held for each in names) else next(iter(names), None)


def _fate(stored: Stored, name: str, slices: Mapping[int, Indices]) -> Fate:
    shape = list(stored.shape)
    for dim, kept in slices.items():
        rows = kept[0]
        shape[dim] = len(rows) if isinstance(rows, list) else len(kept)
    if slices and stored.dtype not in BYTES:
        msg = f"{stored.name!r} is to be cut, but its elements ({stored.dtype}) are smaller than a byte"
        raise CheckpointError(msg)
    for dim, kept in slices.items():
        blocks = len(kept) if isinstance(kept[0], list) else 1
        along = 1 if dim == 0 else 0
        if blocks > 1 and (along >= len(shape) or shape[along] % blocks != 0):
            msg = f"the plan cuts dimension {dim} of {name!r} in {blocks} blocks, which {list(shape)} does not have"
            raise CheckpointError(msg)
    return Fate(stored, name, slices, tuple(shape))
