"""A plan: the decision what to keep, as data that can be printed, stored as JSON, and applied elsewhere."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fxprune.cut import Cut
from fxprune.errors import CheckpointError
from fxprune.groups import Group
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.safe_json import Upgrade, integer, number, parse, shown, upgraded
from fxprune.safe_json import text as text_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Indices: TypeAlias = list[int] | list[list[int]]

SCHEMA = 1
UPGRADES: Mapping[int, Upgrade] = {}
"""Older schema -> function from its data to the next one's."""
LONGEST = 2**28
"""Bytes that a plan in a file may have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is kept of a model.

    Attributes:
        kept: group name -> sorted kept indices; for a nested group one list for each index of its outer variable.
            Only groups that lose something.
        slices: parameter or buffer name -> {dimension: sorted kept indices}, only dimensions that lose something; a
            list of lists, one per kept group, where a nested choice makes the indices of one dimension differ along
            the first other one, whose kept indices fall into as many consecutive blocks.
        widths: group name -> (kept, original) number of indices, for all groups.
        ignore: patterns of what had to keep its shape; the groups are those of an analysis with them.
        dropped: paths of blocks that were dropped whole.
        budget: the budget as the user stated it.
        scorer: name of the scorer.
        search: name of the search method.
        seed: the seed that the user gave.
        signature: name -> (shape, dtype) of every parameter and buffer of the original.
        versions: of fxprune and torch.
        tied: later names of tied tensors -> the name that stands for all of them; a checkpoint may hold only some.
        unsaved: names of buffers that are not part of the state dict.
    """

    kept: Mapping[str, Indices]
    slices: Mapping[str, Mapping[int, Indices]]
    widths: Mapping[str, tuple[int, int]]
    ignore: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    budget: Mapping[str, str | float] = field(default_factory=dict)
    scorer: str = ""
    search: str = ""
    seed: int = 0
    signature: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    unsaved: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what any user of a plan relies upon.

        Raises:
            CheckpointError: indices are not sorted, repeat themselves or are out of range, or widths do not fit them.
        """
        for name, (kept, size) in self.widths.items():
            if not (_is_count(kept) and _is_count(size) and 0 < kept <= size):
                msg = f"the plan keeps {shown(kept)} of {shown(size)} indices of group {name!r}"
                raise CheckpointError(msg)
        for name, indices in self.kept.items():
            _check_indices(f"group {name!r}", indices, *self.widths.get(name, (None, None)))
        names = (*self.dropped, *self.ignore, *self.tied, *self.tied.values(), *self.unsaved)
        texts = {"scorer": self.scorer, "search": self.search, **dict.fromkeys(names, "")}
        if not all(isinstance(each, str) for each in (*texts, *texts.values())) or not isinstance(self.seed, int):
            msg = "the plan's scorer, search or dropped blocks are no names, or its seed is no whole number"
            raise CheckpointError(msg)
        for name, dims in self.slices.items():
            if self.signature and name not in self.signature:
                msg = f"the plan slices {name!r}, which its signature does not know"
                raise CheckpointError(msg)
            shape = self.signature[name][0] if name in self.signature else None
            for dim, indices in dims.items():
                if shape is not None and not 0 <= dim < len(shape):
                    msg = f"the plan slices dimension {dim} of {name!r}, which has {len(shape)}"
                    raise CheckpointError(msg)
                _check_indices(f"{name!r}", indices, None, None if shape is None else shape[dim])

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` reads it back."""
        data = {
            "schema": SCHEMA,
            "kept": dict(self.kept),
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "ignore": list(self.ignore),
            "dropped": list(self.dropped),
            "budget": dict(self.budget),
            "scorer": self.scorer,
            "search": self.search,
            "seed": self.seed,
            "signature": {name: [list(shape), dtype] for name, (shape, dtype) in self.signature.items()},
            "versions": dict(self.versions),
            "tied": dict(self.tied),
            "unsaved": list(self.unsaved),
        }
        # On one line: indented, each of millions of indices would have its own.
        return f'{json.dumps(data)[:-1]}, "slices": {_slices_text(self.slices)}}}'

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read a plan back.

        Raises:
            CheckpointError: the text is no plan, or of a schema that this version does not know.
        """
        try:
            data = upgraded(parse(text, "the plan", longest=LONGEST), "the plan", SCHEMA, UPGRADES)
        except CheckpointError as error:
            msg = f"this is no fxprune plan: {error}"
            raise CheckpointError(msg) from error
        unknown = sorted(set(data) - _FIELDS)
        if unknown:
            msg = f"the plan has unknown fields: {', '.join(map(repr, unknown))}"
            raise CheckpointError(msg)
        try:
            return cls(
                kept=data["kept"],
                slices={n: {_dimension(d): kept for d, kept in dims.items()} for n, dims in data["slices"].items()},
                widths={name: _pair(each) for name, each in data["widths"].items()},
                ignore=tuple(_list(data["ignore"])),
                dropped=tuple(_list(data["dropped"])),
                budget={metric: _amount(each) for metric, each in data["budget"].items()},
                scorer=data["scorer"],
                search=data["search"],
                seed=data["seed"],
                signature={name: _described(*_pair(each)) for name, each in data["signature"].items()},
                versions={name: text_of(each, "a version") for name, each in data["versions"].items()},
                tied={name: text_of(each, "a name") for name, each in data.get("tied", {}).items()},
                unsaved=tuple(text_of(each, "a name") for each in _list(data.get("unsaved", []))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"the plan is damaged: {type(error).__name__}: {error}"
            raise CheckpointError(msg) from error

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan to a file (JSON), which appears whole or not at all.

        Raises:
            CheckpointError: there can be no such file.
        """
        from fxprune.files.plan_file import save_plan

        save_plan(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Read the plan of a file: of one that `save` wrote, or of a whole slim model (`fxprune.save`).

        Raises:
            CheckpointError: there is no such file, or it holds no plan.
        """
        from fxprune.files.plan_file import load_plan

        return load_plan(path)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        msg = f"expected a list, found {shown(value)}"
        raise TypeError(msg)
    return value


def _pair(value: object) -> tuple[Any, Any]:
    first, second = _list(value)
    return first, second


def _amount(value: object) -> str | float:
    return value if isinstance(value, str) else number(value, "the budget")


def _dimension(text: str) -> int:
    """A dimension as `to_json` writes it, since others would be a second name of the same one."""
    dim = int(text)
    if str(dim) != text:
        msg = f"a dimension is written as {shown(text)}, not {dim}"
        raise ValueError(msg)
    return dim


def _described(shape: object, dtype: object) -> tuple[tuple[int, ...], str]:
    """Shape and type of a tensor of the original."""
    return tuple(integer(size, "a size", least=0) for size in _list(shape)), text_of(dtype, "a type")


_FIELDS = {
    "schema",
    "kept",
    "slices",
    "widths",
    "ignore",
    "dropped",
    "budget",
    "scorer",
    "search",
    "seed",
    "signature",
    "versions",
    "tied",
    "unsaved",
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_indices(what: str, indices: object, count: int | None, size: int | None) -> None:
    """Sorted distinct whole numbers below `size`, `count` of them; or a list of such lists of one length."""
    rows = indices if isinstance(indices, list) and indices and isinstance(indices[0], list) else [indices]
    first: Any = rows[0]
    for row in rows:
        valid = (
            isinstance(row, list)
            and bool(row)
            and set(map(type, row)) == {int}  # nothing in Python for each: there may be millions
            and row[0] >= 0
            and all(map(operator.lt, row, islice(row, 1, None)))
            and (size is None or row[-1] < size)
            and len(row) == (len(first) if count is None else count)
        )
        if not valid:
            msg = f"the plan's kept indices of {what} are not sorted, distinct and in range"
            raise CheckpointError(msg)


def _slices_text(slices: Mapping[str, Mapping[int, Indices]]) -> str:
    """The slices as JSON; lists that several tensors share are written once."""
    texts: dict[int, str] = {}
    for dims in slices.values():
        for indices in dims.values():
            if id(indices) not in texts:
                texts[id(indices)] = json.dumps(indices)
    tensors = []
    for name, dims in slices.items():
        pairs = ", ".join(f'"{dim}": {texts[id(indices)]}' for dim, indices in dims.items())
        tensors.append(f"{json.dumps(name)}: {{{pairs}}}")
    return f"{{{', '.join(tensors)}}}"


def kept_lists(kept: Mapping[str, NDArray[np.int64]]) -> dict[str, Indices]:
    """Kept indices as plain lists."""
    return {name: indices.tolist() for name, indices in kept.items()}


def slices_of(program: Program, propagation: Propagation, cut: Cut) -> dict[str, dict[int, Indices]]:
    """Kept indices of every dimension of every parameter and buffer that loses some; tied names are all listed."""
    found: dict[str, dict[int, Indices]] = {}
    lists: dict[tuple[tuple[int, ...], bytes], Indices] = {}  # equal ones are one: hidden features are all over a model
    for name in program.tensors:
        axes = propagation.tensors.get(program.canonical(name))
        if axes is None or not cut.touches(axes):
            continue
        found[name] = {}
        for dim, positions in enumerate(cut.grid(axes)):
            if positions is not None:
                rows = positions if positions.ndim == 1 else cut.rows_per_outer(axes, dim)
                key = rows.shape, rows.tobytes()
                if key not in lists:
                    lists[key] = rows.tolist()
                found[name][dim] = lists[key]
    return found


def signature_of(program: Program) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every parameter and buffer."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in program.tensors.items()
    }


def difference(
    stored: Mapping[str, tuple[tuple[int, ...], str]], found: Mapping[str, tuple[tuple[int, ...], str]]
) -> str:
    """In words, the first parameter or buffer by which two signatures differ, and how many do."""
    differing = [name for name in {**stored, **found} if stored.get(name) != found.get(name)]
    told = []
    for whose, signature in (("the other", stored), ("this model", found)):
        shape, dtype = signature.get(differing[0], (None, ""))
        told.append(f"{whose} {'lacks it' if shape is None else f'has {dtype} {list(shape)}'}")
    more = f" ({len(differing)} tensors differ)" if len(differing) > 1 else ""
    return f"{differing[0]}: {', '.join(reversed(told))}{more}"


def widths_of(groups: tuple[Group, ...], widths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Kept and original size of every group."""
    return {group.name: (widths[group.name], group.size) for group in groups}
