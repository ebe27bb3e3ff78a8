"""Dropping the least important blocks, with scores of the whole model for what remains."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fxprune
from fxprune.carry import carried
from fxprune.depth import Depth, least_important, without_blocks
from tests.tiny_languages import IDS, gpt2, llama


@dataclass(frozen=True)
class Block:
    """What the choice looks at."""

    name: str
    family: str = "layers"
    kind: str = "Layer"


BLOCKS: Any = [Block(f"layers.{at}") for at in range(5)]
WORTH = dict(zip((block.name for block in BLOCKS), (0.9, 0.1, 0.5, 0.2, 0.3), strict=True))


@functools.cache
def slim_llama() -> tuple[Any, fxprune.SlimModule]:
    model = llama(3)
    return model, fxprune.compile(model, {"params": "60%"}, data=[{"input_ids": IDS}], drop=1)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (Depth(0), []),
        (Depth(1), [1]),
        (Depth(2), [1, 3]),
        (Depth(2, contiguous=True), [3, 4]),
        (Depth(3, contiguous=True), [1, 2, 3]),
        (Depth(4), [1, 2, 3, 4]),
    ],
)
def test_the_least_important_blocks_go(depth: Depth, expected: list[int]) -> None:
    chosen = least_important(BLOCKS, WORTH, depth)
    assert [block.name for block in chosen] == [f"layers.{at}" for at in expected]


def test_later_blocks_go_first_where_all_are_alike() -> None:
    same = dict.fromkeys(WORTH, 0.5)
    assert [block.name for block in least_important(BLOCKS, same, Depth(1))] == ["layers.4"]
    assert [block.name for block in least_important(BLOCKS, same, Depth(2, contiguous=True))] == [
        "layers.3",
        "layers.4",
    ]


def test_a_run_is_of_one_kind() -> None:
    mixed: Any = [Block("a.0", "a"), Block("b.0", "b"), Block("a.1", "a")]
    with pytest.raises(fxprune.InputError, match="no 2 blocks of one kind follow each other"):
        least_important(mixed, {"a.0": 1, "b.0": 1, "a.1": 1}, Depth(2, contiguous=True))


@pytest.mark.parametrize("count", [5, 9])
def test_one_block_stays(count: int) -> None:
    with pytest.raises(fxprune.InputError, match="5 can be dropped, and one has to stay"):
        least_important(BLOCKS, WORTH, Depth(count))


@pytest.mark.parametrize("count", [-1, True])
def test_what_is_no_number_is_refused(count: int) -> None:
    with pytest.raises(fxprune.InputError, match="is no number of blocks"):
        Depth(count)


def test_depth_and_width_together_meet_the_budget() -> None:
    model, slim = slim_llama()
    scores = slim.scores
    assert scores is not None
    (dropped,) = slim.plan.dropped
    assert dropped == min(scores.blocks, key=scores.blocks.__getitem__)
    params = next(metric for metric in slim.report.metrics if metric.name == "params")
    assert params.before == sum(each.numel() for each in model.parameters())
    assert params.after == sum(each.numel() for each in slim.parameters()) <= 0.6 * params.before


def test_scores_serve_other_depths() -> None:
    model, slim = slim_llama()
    deeper = fxprune.compile(model, {"params": "60%"}, example_inputs=(IDS,), scores=slim.scores, drop=2)
    assert len(deeper.plan.dropped) == 2
    assert set(slim.plan.dropped) < set(deeper.plan.dropped)


def test_scores_follow_groups_that_change_their_names() -> None:
    whole = fxprune.analyze(gpt2(), (IDS,))
    part = without_blocks(whole, whole.blocks[:1])
    importance = {group.name: np.full(group.shape, at + 1.0) for at, group in enumerate(whole.groups)}
    scores = fxprune.Scores("numbered", importance, whole=frozenset({"transformer.h.1.attn.c_attn"}))
    found = carried(scores, whole, part)
    assert (
        found.importance["transformer.h.1.attn.c_attn:features"][0] == 1
    )  # hidden features, named after the first layer
    assert found.whole == {"transformer.h.1.attn.c_attn:query/key dimensions"}
    assert found.importance.keys() == {group.name for group in part.groups}


def test_without_importances_and_data_nothing_is_guessed() -> None:
    with pytest.raises(fxprune.InputError, match="nothing says which of them matter least: pass data="):
        fxprune.compile(llama(2), {"params": "60%"}, example_inputs=(IDS,), scorer="magnitude", drop=1)
