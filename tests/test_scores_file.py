"""Scores as files: the same numbers, refused where they belong elsewhere or are no scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

import fxprune
from fxprune.errors import CheckpointError, InputError

X = torch.linspace(-1, 1, 16).reshape(2, 8)


def perceptron(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))


def made() -> fxprune.Scores:
    """With a nested group, curves, and numbers that are hard to write down."""
    importance = {"0": np.array([0.1, 1e-320, 1e300, 0.0]), "a.b:heads#2": np.arange(6.0).reshape(2, 3) / 7}
    curve = fxprune.Curve((1, 3), (0.1 + 0.2, 0.0))
    return fxprune.Scores("mine", importance, {"a.b:heads#2": curve}, {"0.weight": ((4, 2), "float32")})


def test_scores_come_back_the_same(tmp_path: Path) -> None:
    scores, path = made(), tmp_path / "scores.safetensors"
    scores.save(path)
    back = fxprune.Scores.load(str(path))
    assert (back.scorer, back.sensitivity, back.signature) == (scores.scorer, scores.sensitivity, scores.signature)
    assert list(back.importance) == list(scores.importance) or sorted(back.importance) == sorted(scores.importance)
    for name, each in scores.importance.items():
        assert back.importance[name].dtype == np.float64
        assert back.importance[name].shape == each.shape
        assert back.importance[name].tobytes() == each.tobytes()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_saved_scores_serve_for_another_budget(tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    first = fxprune.compile(perceptron(), "80%", example_inputs=X)
    assert first.scores is not None
    first.scores.save(path)
    again = fxprune.compile(perceptron(), "40%", example_inputs=X, scores=path)
    assert again.plan == fxprune.compile(perceptron(), "40%", example_inputs=X).plan


def test_scores_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    scores = fxprune.compile(perceptron(), "80%", example_inputs=X).scores
    assert scores is not None
    scores.save(path)
    expected = (
        r"another model: 0\.weight: this model has float32 \[72, 8\], the other has float32 \[64, 8\] "
        r"\(3 tensors differ\)"
    )
    for given in (path, scores):
        with pytest.raises(InputError, match=expected):
            fxprune.compile(perceptron(72), "80%", example_inputs=X, scores=given)
    bias_free = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4, bias=False))
    with pytest.raises(InputError, match=r"2\.bias: this model lacks it, the other has float32 \[4\]"):
        fxprune.compile(bias_free, "80%", example_inputs=X, scores=path)


def header(**changes: Any) -> dict[str, str]:
    return {"fxprune": json.dumps({"schema": 1, "scorer": "a", "signature": {}, "versions": {}} | changes)}


GOOD = {"importance.0": np.ones(3)}


@pytest.mark.parametrize(
    ("arrays", "metadata", "expected"),
    [
        (GOOD, None, "safetensors file of something else"),
        (GOOD, {"fxprune": "[]"}, "not an object"),
        (GOOD, {"fxprune": "{"}, "cannot be read as JSON"),
        (GOOD, header(schema=2), "schema 2"),
        (GOOD, header(hook="os.system"), "fields"),
        (GOOD, header(scorer=3), "fields"),
        (GOOD, header(signature={"a": [["x"], "float32"]}), "signature holds"),
        (GOOD, header(signature={"a": 3}), "TypeError"),
        ({"importance.0": np.array([1.0, -1.0])}, header(), "negative or not finite"),
        ({"importance.0": np.array([np.nan])}, header(), "negative or not finite"),
        ({"importance.0": np.ones(3, np.float32)}, header(), "no part of scores"),
        ({"importance.0": np.ones((1, 1, 1))}, header(), "no part of scores"),
        ({"weights": np.ones(3)}, header(), "no part of scores"),
        ({**GOOD, "widths.0": np.array([1, 3])}, header(), "lacks its widths"),
        ({**GOOD, "widths.1": np.array([1]), "loss.1": np.zeros(1)}, header(), "its group"),
        ({**GOOD, "widths.0": np.array([3, 1]), "loss.0": np.zeros(2)}, header(), "not ascending"),
        ({**GOOD, "widths.0": np.array([1, 3]), "loss.0": np.zeros(1)}, header(), "empty, not ascending"),
        ({**GOOD, "widths.0": np.array([1]), "loss.0": np.array([np.inf])}, header(), "not finite"),
    ],
)
def test_files_that_hold_no_scores(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], metadata: dict[str, str] | None, expected: str
) -> None:
    path = tmp_path / "scores.safetensors"
    save_file(arrays, path, metadata)
    with pytest.raises(CheckpointError, match=f"does not hold scores: .*{expected}"):
        fxprune.Scores.load(path)


def test_files_that_are_damaged_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        fxprune.Scores.load(path)
    made().save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:-8], b"\xff" * 8 + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as a safetensors file"):
            fxprune.Scores.load(path)


def test_nowhere_to_save(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        made().save(tmp_path / "nowhere" / "scores.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        made().save(tmp_path)


def test_something_else_as_scores() -> None:
    wrong: Any = {"0": [1.0]}
    with pytest.raises(InputError, match="scores is a dict"):
        fxprune.compile(perceptron(), "50%", example_inputs=X, scores=wrong)
