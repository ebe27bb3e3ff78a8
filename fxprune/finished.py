"""What an interrupted run had finished: the store that a scorer gets, and scores that are complete."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING

from fxprune.distributed import from_first, is_first
from fxprune.fingerprint import fingerprint
from fxprune.records import Values
from fxprune.scores import Scores
from fxprune.scores_file import arrays_of, scores_of
from fxprune.store import Store
from fxprune.work import keep

if TYPE_CHECKING:
    from fxprune.scorer import Context

COMPLETE = "scores"
"""Key of a scorer's whole result."""


def open_store(path: str | PathLike[str] | None, scorer: object, context: Context) -> Store:
    """A store in memory, or in the user's file: rank 0 alone has the file, the others begin with what it holds.

    Args:
        path: of the file, or None.
        scorer: with its options.
        context: what else decides the result.

    Raises:
        CheckpointError: the file is damaged, in use, or of another run.
    """
    if path is None:
        return Store()
    settings = {name: getattr(context, name) for name in ("loss", "score", "collect", "align", "floor")}
    own = None if context.weights is None else context.weights.identity()
    print_ = fingerprint(context.analysis, scorer, context.data, settings, context.seed, own)
    opened: list[Store] = []

    def known() -> dict[str, Values]:
        opened.append(Store.open(path, print_))
        return dict(opened[0].known)

    found = from_first(known)
    if is_first():
        return opened[0]
    store = Store()
    store.adopt(found)
    return store


def recall_scores(store: Store, scorer: str, compute: Callable[[], Scores]) -> Scores:
    """The scores that the store holds complete, or computes.

    Raises:
        CheckpointError: rank 0 cannot write the checkpoint; on every rank.
    """
    found = store.get(COMPLETE)
    if found is None:
        scores = compute()
        keep(store, {COMPLETE: {"scorer": scores.scorer, **arrays_of(scores)}})
        return scores
    return scores_of(str(found.pop("scorer", scorer)), found)
