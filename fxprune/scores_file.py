"""Scores as named arrays, which is how files hold them.

importance.<group>          float64 [size], or [outer size, size]
widths.<group>, loss.<group>   int64 [n] and float64 [n]: the sensitivity curve, where there is one
whole.<group>       int64 [1]: the group keeps its width
blocks.<block>      float64 [1]: importance of a block
search.<method>     int64 [1]: the search method that suits the scores, where there is one
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fxprune.errors import BackendError, CheckpointError
from fxprune.safe_json import parse, upgraded
from fxprune.scores import Curve, Scores
from fxprune.version import __version__

HEADER = "fxprune"
SCHEMA = 1
LONGEST = 2**31
"""Bytes that a file of scores may have."""


def save_scores(scores: Scores, path: str | PathLike[str]) -> None:
    """Write scores to a file, which appears whole or not at all.

    Raises:
        CheckpointError: there can be no such file.
    """
    from fxprune.backends.atomic import replacing
    from fxprune.files.archive import not_saved

    try:
        content = scores_to_bytes(scores)
        with replacing(Path(path), len(content)) as made:
            made.write_bytes(content)
    except (BackendError, OSError) as error:
        raise not_saved("the scores", Path(path), error) from error


def scores_to_bytes(scores: Scores) -> bytes:
    """What a file of scores holds."""
    from safetensors.numpy import save

    header = {
        "schema": SCHEMA,
        "scorer": scores.scorer,
        "signature": {name: [list(shape), dtype] for name, (shape, dtype) in scores.signature.items()},
        "versions": {"fxprune": __version__, "torch": str(torch.__version__)},
    }
    return save(arrays_of(scores), {HEADER: json.dumps(header)})


def load_scores(path: str | PathLike[str]) -> Scores:
    """Read scores from a file.

    Raises:
        CheckpointError: there is no such file, or it does not hold scores.
    """
    from fxprune.files.archive import read_file

    try:
        return scores_from_bytes(read_file(Path(path), longest=LONGEST))
    except CheckpointError as error:
        msg = f"{path} does not hold scores: {error}"
        raise CheckpointError(msg) from error


def scores_from_bytes(content: bytes) -> Scores:
    """The scores of which a file has these bytes.

    Raises:
        CheckpointError: they do not hold scores.
    """
    try:
        header, arrays = _read(content)
        scores = scores_of(header["scorer"], arrays)
        signature = {name: _shape_and_type(each) for name, each in header["signature"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    return replace(scores, signature=signature)


def _read(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from fxprune.files.tensors import read_header

    try:
        metadata = read_header(io.BytesIO(content), len(content), "the file").metadata
        arrays = load(content)
    except (CheckpointError, SafetensorError) as error:
        msg = f"it cannot be read as a safetensors file: {error}"
        raise CheckpointError(msg) from error
    if HEADER not in metadata:
        msg = "it is a safetensors file of something else"
        raise CheckpointError(msg)
    return _checked(parse(metadata[HEADER], "its header", longest=LONGEST)), arrays


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    header = upgraded(header, "it", SCHEMA)
    if header.keys() != {"schema", "scorer", "signature", "versions"} or not isinstance(header["scorer"], str):
        msg = f"its header has the fields {sorted(header)}"
        raise CheckpointError(msg)
    return header


def _shape_and_type(stored: Any) -> tuple[tuple[int, ...], str]:
    shape, dtype = stored
    if not (isinstance(dtype, str) and all(isinstance(size, int) and size >= 0 for size in shape)):
        msg = f"its signature holds {stored!r}"
        raise CheckpointError(msg)
    return tuple(shape), dtype


def arrays_of(scores: Scores) -> dict[str, np.ndarray[Any, Any]]:
    """All numbers of the scores, by name."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        f"importance.{group}": np.asarray(each, dtype=np.float64) for group, each in scores.importance.items()
    }
    for group, curve in scores.sensitivity.items():
        arrays[f"widths.{group}"] = np.array(curve.widths, dtype=np.int64)
        arrays[f"loss.{group}"] = np.array(curve.loss, dtype=np.float64)
    arrays.update({f"effort.{what}": np.array([count], dtype=np.int64) for what, count in scores.effort.items()})
    arrays.update({f"whole.{group}": np.array([1], dtype=np.int64) for group in sorted(scores.whole)})
    arrays.update({f"blocks.{block}": np.array([each], dtype=np.float64) for block, each in scores.blocks.items()})
    if scores.search is not None:
        arrays[f"search.{scores.search}"] = np.array([1], dtype=np.int64)
    return arrays


def scores_of(scorer: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Scores:
    """The scores that such arrays are.

    Raises:
        CheckpointError: a name, type or shape is none of these, or a number is out of range.
    """
    parts: dict[str, dict[str, np.ndarray[Any, Any]]] = {kind: {} for kind in _TYPES}
    for name, array in arrays.items():
        kind, _, group = name.partition(".")
        if kind not in parts or str(array.dtype) != _TYPES[kind] or array.ndim not in _RANKS[kind]:
            msg = f"{name!r} ({array.dtype}, shape {array.shape}) is no part of scores"
            raise CheckpointError(msg)
        parts[kind][group] = array
    if parts["widths"].keys() != parts["loss"].keys() or not parts["widths"].keys() <= parts["importance"].keys():
        msg = "a sensitivity curve lacks its widths, its losses or its group"
        raise CheckpointError(msg)
    curves = {group: _curve(group, widths, parts["loss"][group]) for group, widths in parts["widths"].items()}
    try:
        importance = {group: each.copy() for group, each in parts["importance"].items()}
        effort = {what: int(each.sum()) for what, each in parts["effort"].items()}
        blocks = {block: float(each.sum()) for block, each in parts["blocks"].items()}
        method = next(iter(parts["search"]), None)
        return Scores(
            scorer, importance, curves, effort=effort, whole=frozenset(parts["whole"]), blocks=blocks, search=method
        )
    except ValueError as error:
        raise CheckpointError(str(error)) from error


_TYPES = {"importance": "float64", "widths": "int64", "loss": "float64", "effort": "int64"}
_TYPES |= {"whole": "int64", "blocks": "float64", "search": "int64"}
_RANKS = {"importance": (1, 2), "widths": (1,), "loss": (1,), "effort": (1,)}
_RANKS |= {"whole": (1,), "blocks": (1,), "search": (1,)}


def _curve(group: str, widths: np.ndarray[Any, Any], loss: np.ndarray[Any, Any]) -> Curve:
    if not 0 < len(widths) == len(loss) or (np.diff(widths) <= 0).any() or not np.isfinite(loss).all():
        msg = f"the sensitivity curve of group {group!r} is empty, not ascending or not finite"
        raise CheckpointError(msg)
    return Curve(tuple(widths.tolist()), tuple(loss.tolist()))
