"""The scorer protocol, and how scorers are found: by name, by entry points of installed packages, or as objects.

A scorer says for every dependency group how important each of its indices is. It is any object with

    name: str                          how reports call it
    needs: frozenset[str]              which of "data", "loss", "score" the user has to give
    score(context) -> Scores

A package adds one by an entry point in the group `fxprune.scorers`: a class that is called without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fxprune.analysis import Analysis
from fxprune.axes import Axes
from fxprune.errors import FxpruneError, InputError, PluginError
from fxprune.groups import Group
from fxprune.passes.magnitude import Magnitude
from fxprune.passes.obs import Obs
from fxprune.scores import Scores

ENTRY_POINTS = "fxprune.scorers"


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
    """

    model: nn.Module
    analysis: Analysis
    data: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    score: Callable[[nn.Module], float] | None = None
    collect: Callable[[Any], Any] | None = None
    seed: int = 0

    @property
    def groups(self) -> tuple[Group, ...]:
        """All dependency groups."""
        return self.analysis.groups

    def parameters_of(self, group: Group) -> dict[str, tuple[Tensor, Axes]]:
        """Every parameter in which the group's indices occur, with its axes; buffers and constants are left out."""
        program, axes = self.analysis.program, self.analysis.propagation.tensors
        names = dict.fromkeys(member.name for member in group.members)
        return {
            name: (program.tensors[name], axes[name])
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


BUILT_IN: dict[str, Callable[[], Scorer]] = {"magnitude": Magnitude, "obs": Obs}


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
        msg = f"the scorer {scorer.name!r} needs {wanted}; pass it to fxprune.compile"
        raise InputError(msg)


def run_scorer(scorer: Scorer, context: Context) -> Scores:
    """Score, and check that the scores fit the groups.

    Raises:
        PluginError: a group has no importances, or of another shape.
    """
    try:
        scores: object = scorer.score(context)
    except FxpruneError:
        raise
    except Exception as error:
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
        expected = (group.size,) if group.outer is None else (group.outer.size, group.size)
        found = scores.importance.get(group.name)
        if found is None or found.shape != expected:
            what = "no importances" if found is None else f"importances of shape {found.shape}"
            msg = f"the scores of {scores.scorer!r} hold {what} for group {group.name!r}, expected shape {expected}"
            raise PluginError(msg)
