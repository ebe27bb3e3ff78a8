"""Whether the tensors of a file are those that its plan leaves of the original's."""

from __future__ import annotations

from collections.abc import Iterable

from fxprune.errors import CheckpointError
from fxprune.files.state import StateEntry
from fxprune.plan import Indices, Plan


def check_fit(plan: Plan, state: Iterable[StateEntry]) -> None:
    """Compare shapes with the plan's signature, cut as the plan says.

    A buffer that is not cut may have another shape: some models make it anew when they run.

    Raises:
        CheckpointError: a parameter has another shape, or is missing though no dropped block held it.
    """
    entries = {entry.name: entry for entry in state}
    for name, (shape, _) in plan.signature.items():
        entry = entries.get(name)
        if entry is None:
            if not any(name.startswith(f"{block}.") for block in plan.dropped):
                raise CheckpointError(f"the plan speaks of {name}, which the file does not have")
            continue
        found = (entries[entry.same_as] if entry.same_as is not None else entry).declared
        wanted = cut_shape(shape, plan.slices.get(name, {}))
        assert found is not None
        if found.shape != wanted and (entry.kind == "parameter" or name in plan.slices):
            raise CheckpointError(f"{name} has shape {list(found.shape)}; its plan leaves {list(wanted)}")


def cut_shape(shape: tuple[int, ...], slices: object) -> tuple[int, ...]:
    """A shape after slicing.

    Example:
        >>> cut_shape((4, 6), {1: [0, 2, 5]})
        (4, 3)
    """
    assert isinstance(slices, dict)
    return tuple(_count(slices[dim]) if dim in slices else size for dim, size in enumerate(shape))


def _count(indices: Indices) -> int:
    """Kept indices, of each kept group where they are nested."""
    first = indices[0]
    return len(first) if isinstance(first, list) else len(indices)
