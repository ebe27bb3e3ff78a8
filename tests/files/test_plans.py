"""Plans that somebody has written by hand: what `restore` says of each, before anything is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fxprune
from fxprune import CheckpointError
from tests.files.nets import compiled

Indices = list[Any]


def everywhere(change: Callable[[Indices], Indices]) -> Callable[[dict[str, Any]], None]:
    """The same change of a group's kept indices and of all slices."""

    def act(plan: dict[str, Any]) -> None:
        plan["kept"]["up"] = change(plan["kept"]["up"])
        for name, dims in plan["slices"].items():
            plan["slices"][name] = {dim: change(kept) for dim, kept in dims.items()}

    return act


def alone(kept: Indices) -> Callable[[dict[str, Any]], None]:
    """Kept indices with nothing beside them to compare with."""
    return lambda plan: plan.update(kept={"up": kept}, slices={}, widths={})


def spelled(dim: str) -> Callable[[dict[str, Any]], None]:
    """A dimension by another name."""
    return lambda plan: plan["slices"].update({"up.bias": {dim: plan["kept"]["up"]}})


NO_INDICES = "not sorted, distinct and in range"
DAMAGED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (everywhere(lambda kept: kept[::-1]), NO_INDICES),
    (everywhere(lambda kept: [kept[0], *kept[:-1]]), NO_INDICES),
    (everywhere(lambda kept: [-1, *kept[1:]]), NO_INDICES),
    (everywhere(lambda kept: [*kept[:-1], 40]), NO_INDICES),
    (everywhere(lambda kept: [*kept[:-1], 2**63]), NO_INDICES),
    (everywhere(lambda kept: [float(each) for each in kept]), NO_INDICES),
    (everywhere(lambda kept: [False, *kept[1:]]), NO_INDICES),
    (everywhere(lambda kept: kept[:-1]), NO_INDICES),
    (everywhere(lambda kept: []), NO_INDICES),
    (everywhere(lambda kept: [[[each] for each in kept]]), NO_INDICES),
    (everywhere(lambda kept: [kept]), "keeps 1 x 28 indices up to 35 of group 'up', which has 40"),
    (everywhere(lambda kept: [kept] * 40), "keeps 40 x 28 indices"),
    (alone([0, 50]), "keeps 2 indices up to 50 of group 'up', which has 40"),
    (alone([0, 2**63 - 1]), "keeps 2 indices up to 9223372036854775807 of group 'up', which has 40"),
    (alone([0, 10**300]), "which has 40"),
    (alone([[0, 10**300]]), "keeps 1 x 2 indices"),
    (spelled("00"), "written as '00', not 0"),
    (spelled("+0"), r"written as '\+0', not 0"),
    (spelled(" 0"), "written as ' 0', not 0"),
    (spelled("-0"), "written as '-0', not 0"),
    (spelled("\u0660"), "not 0"),
    (spelled("-1"), "slices dimension -1 of 'up.bias'"),
    (spelled("1e0"), "invalid literal"),
]


def restore(text: str, folder: Path) -> None:
    _, model, inputs = compiled("nested")
    (folder / "plan.json").write_text(text)
    fxprune.restore(model, folder / "plan.json", example_inputs=inputs)


@pytest.mark.parametrize(("change", "said"), DAMAGED)
def test_indices_that_nothing_can_keep(change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path) -> None:
    plan = json.loads(compiled("nested")[0].plan.to_json())
    change(plan)
    with pytest.raises(CheckpointError, match=said) as caught:
        restore(json.dumps(plan), tmp_path)
    assert len(str(caught.value)) < 500


def test_a_plan_of_kept_indices_alone(tmp_path: Path) -> None:
    plan = json.loads(compiled("nested")[0].plan.to_json())
    alone(plan["kept"]["up"])(plan)
    restore(json.dumps(plan), tmp_path)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 5_000])
def test_numbers_that_are_none(number: str, tmp_path: Path) -> None:
    text = compiled("nested")[0].plan.to_json()
    assert '"80%"' in text
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        restore(text.replace('"80%"', number), tmp_path)
