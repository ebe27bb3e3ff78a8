"""The scorer protocol, and how scorers are found: by name, by entry points of installed packages, or as objects.

A scorer says for every dependency group how important each of its indices is. It is any object with

    name: str                          how reports call it
    needs: frozenset[str]              which of "data", "loss", "score" the user has to give
    score(context) -> Scores

A package adds one by an entry point in the group `fxprune.scorers`: a class that is called without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from fxprune.analysis import Analysis
from fxprune.axes import Axes
from fxprune.batches import Batch, iterate_batches
from fxprune.errors import InputError, PluginError
from fxprune.groups import Group
from fxprune.inputs import device_of
from fxprune.language import is_causal_language_model
from fxprune.passes.fastnas import FastNAS
from fxprune.passes.gradnas import GradNAS
from fxprune.passes.magnitude import Magnitude
from fxprune.passes.minitron import Minitron
from fxprune.passes.obs import Obs
from fxprune.passes.random_scores import Random
from fxprune.passes.taylor import Taylor
from fxprune.passes.torch_pruning import TorchPruning, is_importance
from fxprune.progress import track
from fxprune.records import Values
from fxprune.scores import Scores
from fxprune.store import Store
from fxprune.weights import Weights
from fxprune.widths import Align, Floor, Range, width_ranges
from fxprune.work import accumulate, evaluate

ENTRY_POINTS = "fxprune.scorers"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Context:
    """What a scorer may look at.

    Attributes:
        model: the user's model; not to be changed.
        analysis: its groups, axes and costs.
        data: batches, if the user gave any.
        loss: (output, batch) -> scalar tensor, if the user gave one.
        score: model -> float, higher is better, if the user gave one.
        collect: batch -> inputs, if the user gave one.
        seed: for whatever is random.
        align: the multiple that widths are kept to, if the user gave one.
        floor: smallest widths, if the user gave them.
        store: finished work by key, in memory and in the user's checkpoint file.
        progress: whether long work is shown on the terminal.
        weights: where values of parameters come from, if not from the model (`fxprune.score`).
    """

    model: nn.Module
    analysis: Analysis
    data: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    score: Callable[[nn.Module], float] | None = None
    collect: Callable[[Any], Any] | None = None
    seed: int = 0
    align: Align | None = None
    floor: Floor | None = None
    store: Store = field(default_factory=Store)
    progress: bool = True
    weights: Weights | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """All dependency groups."""
        return self.analysis.groups

    def batches(self, limit: int | None = None, *, share: bool = False, skip: int = 0) -> Iterator[Batch]:
        """The user's data, arranged for the graph, on the model's device; each call goes through it from the start.

        Args:
            limit: largest number of batches; None for all.
            share: only this rank's share, where several processes work (`fxprune.distributed`).
            skip: number of batches to leave out at the beginning.

        Raises:
            InputError: there is no data, no batch, or a batch that the graph cannot take.
        """
        if self.data is None:
            msg = "the scorer goes through batches, and there is no data; pass data= to fxprune.compile"
            raise InputError(msg)
        program = self.analysis.program
        device = device_of(self.model) if self.weights is None else self.weights.device
        return iterate_batches(self.data, program, self.collect, device, limit, share=share, skip=skip)

    def track(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
        """Go through the items and show how far it is, where it takes longer than a second and there is a terminal."""
        return track(items, what, total) if self.progress else iter(items)

    def evaluate(
        self, keys: Sequence[str], compute: Callable[[str], Mapping[str, Any]], what: str
    ) -> dict[str, Values]:
        """What `compute(key)` returns for every key: shared among processes, remembered in the store, with progress.

        Args:
            keys: what is to be computed, each by itself: the same list on every rank. They are keys of the store.
            compute: key -> named arrays of float64 or int64, or what JSON can say.
            what: what is being done, for the display.
        """
        return evaluate(keys, compute, what, self.store, self.track)

    def accumulate(
        self, key: str, compute: Callable[[Batch], Mapping[str, Any]], what: str, limit: int | None = None
    ) -> tuple[dict[str, Any], int]:
        """Sums over batches of what `compute(batch)` returns: shared, remembered and shown likewise.

        Sums are float64 and added in the order of the batches, whatever the number of processes.

        Args:
            key: of the running sums in the store.
            compute: batch -> named arrays (NumPy, or tensors on the CPU).
            what: what is being done, for the display.
            limit: largest number of batches; None for all.

        Returns:
            The sums, and the number of batches.
        """

        def share(skip: int) -> Iterator[Batch]:
            return self.batches(limit, share=True, skip=skip)

        idle = self.weights.follow if self.weights is not None and self.weights.collective else None
        return accumulate(key, share, compute, what, self.store, self.track, self._count(limit), idle)

    def _count(self, limit: int | None) -> int | None:
        """Number of batches, where it is known."""
        try:
            count = len(self.data) if isinstance(self.data, Sized) else None
        except TypeError:  # a DataLoader over a data set without a length
            count = None
        return limit if count is None else count if limit is None else min(count, limit)

    def range_of(self, group: Group) -> Range:
        """The widths that a group may be cut to."""
        return width_ranges(self.analysis, self.align, self.floor)[group.name]

    def parameters_of(self, group: Group) -> dict[str, tuple[Tensor, Axes]]:
        """Every parameter in which the group's indices occur, with its axes; buffers and constants are left out."""
        program, axes = self.analysis.program, self.analysis.propagation.tensors
        names = dict.fromkeys(member.name for member in group.members)
        return {
            name: (program.tensors[name] if self.weights is None else self.weights.fetch(name), axes[name])
            for name in names
            if name in program.tensors and name not in program.buffers
        }


@runtime_checkable
class Scorer(Protocol):
    """Says how important each index of each group is."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Which of "data", "loss" and "score" the user has to give."""
        ...

    def score(self, context: Context) -> Scores:
        """Importance of every index of every group in `context.groups`."""
        ...


BUILT_IN: dict[str, Callable[[], Scorer]] = {
    "fastnas": FastNAS,
    "gradnas": GradNAS,
    "magnitude": Magnitude,
    "minitron": Minitron,
    "obs": Obs,
    "random": Random,
    "taylor": Taylor,
}


def fitting_scorer(given: Mapping[str, object]) -> str:
    """The scorer that "auto" stands for: the one that makes the most of what was given."""
    if given.get("score") is not None:
        return "fastnas"
    if given.get("data") is not None and is_causal_language_model(given.get("model")):
        return "minitron"
    if given.get("data") is not None and given.get("loss") is not None:
        return "gradnas"
    return "magnitude" if given.get("data") is None else "obs"


def find_scorer(scorer: str | Scorer) -> Scorer:
    """The scorer of that name, or the object itself.

    Raises:
        InputError: no scorer has that name, or the object is none.
        PluginError: two packages claim the name, or a plug-in cannot be loaded.
    """
    if not isinstance(scorer, str):
        if isinstance(scorer, type):
            msg = f"{scorer.__name__} is a class; pass an instance, {scorer.__name__}()"
            raise InputError(msg)
        if isinstance(scorer, Scorer):
            return scorer
        if is_importance(scorer):
            return TorchPruning(scorer)
        msg = (
            f"{type(scorer).__name__} is no scorer: it needs `name`, `needs` and `score(context)`; see docs/scorers.md"
        )
        raise InputError(msg)
    points = entry_points(group=ENTRY_POINTS)
    claims = {f"{_package(point)} ({point.value})": point for point in points if point.name == scorer}
    owners = [*(["fxprune itself"] if scorer in BUILT_IN else []), *sorted(claims)]
    if len(owners) > 1:
        msg = f"several packages provide a scorer {scorer!r}: {' and '.join(owners)}; uninstall all but one of them"
        raise PluginError(msg)
    if scorer in BUILT_IN:
        return BUILT_IN[scorer]()
    if claims:
        return _load(next(iter(claims.values())))
    raise InputError(_unknown(scorer, [*BUILT_IN, *(point.name for point in points)]))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _load(point: EntryPoint) -> Scorer:
    try:
        made = point.load()()
    except Exception as error:
        msg = f"the scorer {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        raise PluginError(msg) from error
    if not isinstance(made, Scorer):
        msg = f"{point.value} is registered as the scorer {point.name!r} but lacks `name`, `needs` or `score`"
        raise PluginError(msg)
    return made


def _unknown(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return (
        f"there is no scorer named {name!r}{hint} Known: {', '.join(map(repr, sorted(known)))}. Pass one of these, an "
        "object with `name`, `needs` and `score(context)`, or install a package that provides it"
    )


def check_needs(scorer: Scorer, given: dict[str, object]) -> None:
    """Refuse to start without what the scorer needs.

    Raises:
        InputError: something is missing.
    """
    missing = sorted(need for need in scorer.needs if given.get(need) is None)
    if missing:
        wanted = " and ".join(f"{each}=" for each in missing)
        msg = f"the scorer {scorer.name!r} needs {wanted}; pass it to the call that scores (fxprune.compile, score or sweep)"
        raise InputError(msg)
