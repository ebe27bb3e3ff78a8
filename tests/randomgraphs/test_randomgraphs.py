"""Random modules are what they promise: reproducible, finite, exportable, and the interpreter runs them unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils._pytree import tree_leaves

from tests.randomgraphs import BLOCKS, RandomModule, dynamic_batch, random_module, recurrent
from tests.randomgraphs.kinds import Tokens
from tests.randomgraphs.registry import Draw, Seeded
from tests.randomgraphs.strategies import random_modules
from tests.reference import masked_outputs

SEEDS = range(100)


@pytest.fixture(autouse=True)
def no_fused_kernels() -> Iterator[None]:
    """Attention layers run as their parts, as they are captured: the fused kernel rounds otherwise."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


def flat(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The outputs as a list."""
    with torch.no_grad():
        return tree_leaves(module(*(each.clone() for each in inputs)))


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
@pytest.mark.parametrize("seed", SEEDS)
def test_module_exports_and_is_interpreted_as_it_runs(seed: int) -> None:
    module, inputs = random_module(seed)
    plain = flat(module, inputs)
    assert plain, module.describe()
    assert all(torch.isfinite(each).all() for each in plain), module.describe()
    again = flat(*random_module(seed))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)), module.describe()
    dynamic = dynamic_batch(inputs) if seed % 3 == 0 else None
    graph = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False).module()
    assert isinstance(graph, torch.fx.GraphModule)
    short = masked_outputs(graph, {}, inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, short, strict=True)), module.describe()
    full = masked_outputs(graph, {}, inputs, shortcut=False)
    for expected, found in zip(plain, full, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_modules_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random_module(5)
    assert torch.equal(before, torch.get_rng_state())


def test_every_block_occurs() -> None:
    seen = {step.name for seed in range(1500) for step in random_module(seed)[0].steps}
    assert set(BLOCKS) <= seen, set(BLOCKS) - seen


def test_a_module_from_some_blocks_only() -> None:
    module, _ = random_module(3, size=4, only=["conv", "linear", "dense"])
    assert {step.name for step in module.steps} <= {"conv", "linear", "dense", "head"}
    assert "random_module(3)" in module.describe()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(random_modules(max_size=3))
def test_the_strategy_gives_modules(made: tuple[RandomModule, tuple[torch.Tensor, ...]]) -> None:
    module, inputs = made
    assert flat(module, inputs), module.describe()


def test_last_states_are_left_out_where_torch_records_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> list[type[torch.Tensor | nn.Module] | None]:
        made = [recurrent.last_state(Draw(Seeded(seed)), Tokens(length=3, features=4)) for seed in range(12)]
        return [None if each is None else type(each[0].layer) for each in made]

    assert recurrent.records_states(nn.GRU, 2, True, False)
    before = drawn()
    monkeypatch.setattr(recurrent, "records_states", lambda kind, *_: kind is not nn.LSTM)
    assert drawn() == [None if kind is nn.LSTM else kind for kind in before]
    assert {nn.GRU, nn.RNN, None} <= set(drawn())
