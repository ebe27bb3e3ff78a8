"""Random modules under random plans: the slim model computes what the independent reference interpreter says it must.

FXPRUNE_RANDOM_GRAPHS sets how many modules are drawn (default 1000; the long run named in the README takes 20000), and
FXPRUNE_RANDOM_GRAPHS_FROM the first seed. Every fourth is captured with a free batch size, which takes twice as long.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, note, settings, strategies

from fxprune.analysis import analyze_program
from fxprune.capture import capture
from tests.randomgraphs import random_module
from tests.randomgraphs.strategies import drawn_with, random_modules
from tests.semantics.checking import check, check_cut
from tests.semantics.plans import random_cut

COUNT = int(os.environ.get("FXPRUNE_RANDOM_GRAPHS", "1000"))
FIRST = int(os.environ.get("FXPRUNE_RANDOM_GRAPHS_FROM", "0"))
CHUNK = 10


@pytest.fixture(autouse=True)
def rarer_collections() -> Iterator[None]:
    """Capture makes many small objects: a third of its time would go to looking for garbage among torch's modules."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, *before[1:])
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize("start", range(FIRST, FIRST + COUNT, CHUNK))
def test_random_graphs(start: int) -> None:
    for seed in range(start, min(start + CHUNK, FIRST + COUNT)):
        model, inputs = random_module(seed)
        try:
            check(model, inputs, seed, free_batch=seed % 4 == 0)
        except Exception as error:
            error.add_note(f"seed {seed}: {model.describe()}")
            raise


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(strategies.data())
def test_graphs_that_shrink(data: strategies.DataObject) -> None:
    """The same, drawn by hypothesis, which finds the smallest module and plan that fail."""
    model, inputs = data.draw(random_modules(max_size=3))
    note(model.describe())
    analysis = analyze_program(capture(model, inputs, free_batch=False))
    check_cut(analysis, data.draw(drawn_with(lambda draw: random_cut(analysis.groups, draw))))
