"""Fingerprints: what decides the result of scoring, in a form that two runs can compare part by part.

Each part is the digest (`fxprune.digests`) of something that the user can change between two runs. Fingerprints are made
before scoring, and leave random number generators as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

import torch

from fxprune.digests import Digests
from fxprune.replay import Rewound
from fxprune.version import __version__

if TYPE_CHECKING:
    from fxprune.analysis import Analysis
    from fxprune.program import Program


def fingerprint(
    analysis: Analysis,
    scorer: object,
    data: Iterable[Any] | None,
    settings: Mapping[str, object],
    seed: int,
    weights: object = None,
) -> dict[str, str]:
    """What decides the scores of a model: name of each part -> its digest.

    Args:
        analysis: of the model, without what is ignored and dropped.
        scorer: with its options.
        data: gone into as far as its first batch.
        settings: functions of the user's and whatever else scorers look at, by the names of `compile`'s arguments.
        seed: the seed.
        weights: what stands for the weights, where the model does not hold them.
    """
    program = analysis.program
    tensors = {n: each for n, each in program.tensors.items() if n not in program.transient}
    groups = [(g.name, g.kind, g.size, None if g.outer is None else g.outer.size) for g in analysis.groups]
    parts: dict[str, object] = {
        "model": [[(n, tuple(each.shape), str(each.dtype)) for n, each in tensors.items()], _operations(program)],
        "weights": weights or {n: each for n, each in tensors.items() if n == program.canonical(n)},
        "groups (ignore, drop, example_inputs)": groups,
        "scorer": scorer,
        "data": _data(data),
        **settings,
        "seed": seed,
        "versions of fxprune and torch": [__version__, str(torch.__version__)],
    }
    return {name: digest(part) for name, part in parts.items()}


def digest(value: object) -> str:
    """A short text that is the same for values that are alike.

    Example:
        >>> digest([1, "a", None]) == digest([1, "a", None]) != digest([1, "b", None])
        True
    """
    return Digests().of(value).hex()


def _operations(program: Program) -> list[str]:
    """The operations that the model computes, whose order and constants no weight tells."""
    return [str(node.target) for node in program.nodes if node.op == "call_function"]


def _data(data: Iterable[Any] | None) -> object:
    """The first batch, and the number of batches where it is known."""
    if data is None:
        return None
    try:
        count = len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader over a data set without a length
        count = None
    return [count, list(itertools.islice(Rewound(data), 1))]
