"""Layers beside dropped blocks are repaired so that the stream becomes what the whole model has there."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import InputError
from fxprune.passes.lockstep import Lockstep
from tests.test_reconstruct import fill, random

WIDTH = 16
DATA = [random(64, WIDTH, seed=each) for each in range(10)]
HELD = random(256, WIDTH, seed=99)


class Block(nn.Module):
    """A residual block with much to say."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(WIDTH, 64), act, nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(self.act(self.up(x)))
        return out


class Net(nn.Module):
    """Blocks between two layers; on demand what lies between the blocks comes out as well."""

    def __init__(self, blocks: int = 4, *, act: Any = nn.GELU, hidden: bool = False) -> None:
        super().__init__()
        self.hidden = hidden
        self.blocks = nn.ModuleList(Block(act()) for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Any:
        streams = [x]
        for block in self.blocks:
            streams.append(block(streams[-1]))
        out = self.head(streams[-1])
        return (out, streams[2]) if self.hidden else out


class Merged(Block):
    """A block whose layers see batch and sequence as one dimension, as the `Conv1D` of GPT-2 does."""

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.addmm(self.up.bias, x.reshape(-1, WIDTH), self.up.weight.T).reshape(*x.shape[:-1], 64)
        out: Tensor = x + self.down(self.act(inner).reshape(-1, 64)).reshape(x.shape)
        return out


class Images(nn.Module):
    """A small residual network with BatchNorm, and activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(self.block() for _ in range(4))
        self.head = nn.Linear(8, 5)

    @staticmethod
    def block() -> nn.Module:
        return Residual(
            nn.Sequential(
                nn.Conv2d(8, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.Conv2d(24, 8, 1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Residual(nn.Module):
    """What it holds, added to its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def error(model: nn.Module, slim: nn.Module, x: Tensor) -> float:
    """Relative, of the first output."""
    with torch.no_grad():
        outputs = [module(x) for module in (model, slim)]
    wanted, found = (each[0] if isinstance(each, tuple) else each for each in outputs)
    return float((found - wanted).norm() / wanted.norm())


def dropped(model: nn.Module, names: list[str], data: list[Tensor], **options: Any) -> fxprune.SlimModule:
    return fxprune.compile(
        model,
        {"params": "100%"},
        example_inputs=data[0],
        data=data,
        scorer="magnitude",
        drop=names,
        progress=False,
        **options,
    )


@pytest.mark.parametrize("names", [["blocks.1"], ["blocks.1", "blocks.2"], ["blocks.3"], ["blocks.0"]])
def test_the_model_comes_closer_to_the_whole_one(names: list[str]) -> None:
    model = fill(Net())
    plain, slim = (dropped(model, names, DATA, reconstruct=each) for each in (False, True))
    assert error(model, slim, HELD) < 0.8 * error(model, plain, HELD)
    assert [name for name, _ in slim.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_a_block_that_adds_a_constant_becomes_the_bias_in_front_of_it() -> None:
    model = fill(Net())
    with torch.no_grad():
        model.blocks[2].down.weight.zero_()
    slim = dropped(model, ["blocks.2"], DATA)
    assert error(model, dropped(model, ["blocks.2"], DATA, reconstruct=False), HELD) > 0.1
    assert error(model, slim, HELD) < 1e-4
    bias = model.blocks[1].down.bias + model.blocks[2].down.bias
    torch.testing.assert_close(slim.get_parameter("blocks.1.down.bias"), bias, rtol=1e-3, atol=1e-3)


def test_what_comes_out_on_the_way_stays_what_it_was() -> None:
    model = fill(Net(hidden=True))
    slim = dropped(model, ["blocks.2"], DATA)
    with torch.no_grad():
        torch.testing.assert_close(slim(HELD)[1], model(HELD)[1])
    assert error(model, slim, HELD) < error(model, dropped(model, ["blocks.2"], DATA, reconstruct=False), HELD)


def test_layers_before_the_block_change_only_where_nobody_else_reads_the_stream() -> None:
    for hidden in (False, True):
        model = fill(Net(hidden=hidden))
        slim = dropped(model, ["blocks.2"], DATA)
        same = [
            torch.equal(slim.get_parameter(f"blocks.{at}.down.weight"), model.blocks[at].down.weight) for at in (0, 1)
        ]
        assert same == [True, hidden]


@pytest.mark.parametrize("names", [["blocks.1"], ["blocks.1", "blocks.2"]])
def test_activations_in_place_do_no_harm(names: list[str]) -> None:
    model = fill(Images())
    data = [random(8, 3, 8, 8, seed=each) for each in range(10)]
    plain, slim = (dropped(model, names, data, reconstruct=each) for each in (False, True))
    x = random(32, 3, 8, 8, seed=77)
    assert error(model, slim, x) < 0.8 * error(model, plain, x)


def test_what_is_written_in_place_on_the_way_is_compared_with_as_it_was() -> None:
    """The block in front writes into the stream in place: the original cannot run ahead, and the layers behind are repaired."""
    model = fill(Net())
    for module in (plain := copy.deepcopy(model)).blocks:
        module.forward = functools.partial(in_place, module)
    found = [dropped(each, ["blocks.2"], DATA) for each in (model, plain)]
    assert error(model, found[0], HELD) < error(model, found[1], HELD)
    assert error(model, found[1], HELD) < error(model, dropped(model, ["blocks.2"], DATA, reconstruct=False), HELD)
    assert torch.equal(found[1].get_parameter("blocks.1.down.weight"), model.blocks[1].down.weight)


def in_place(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.down(block.act(block.up(x)))
    out += x
    return out


def test_layers_that_see_positions_in_another_shape_write_into_the_stream_too() -> None:
    """They get the repair of the same layers that see them as they are."""
    model = fill(Net())
    for block in (merged := copy.deepcopy(model)).blocks:
        block.__class__ = Merged
    data = [each.reshape(8, 8, WIDTH) for each in DATA]
    found = [dropped(each, ["blocks.2"], data) for each in (model, merged)]
    torch.testing.assert_close(
        dict(found[1].named_parameters()), dict(found[0].named_parameters()), rtol=1e-3, atol=1e-4
    )


def test_widths_and_depth_are_repaired_together() -> None:
    model = fill(Net())
    options: dict[str, Any] = {"example_inputs": DATA[0], "data": DATA, "scorer": "magnitude", "progress": False}
    slims = [
        fxprune.compile(model, {"params": "50%"}, drop=["blocks.1"], reconstruct=each, **options)
        for each in (False, True)
    ]
    assert error(model, slims[1], HELD) < 0.8 * error(model, slims[0], HELD)


def test_a_block_that_is_not_finite_is_named() -> None:
    """Nothing can be repaired towards what it gives, though the model without it is sound."""
    model = fill(Net())
    with torch.no_grad():
        model.blocks[2].down.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"reconstruct=False.*The model's blocks\.2\.down\.weight holds nan"):
        dropped(model, ["blocks.2"], DATA)
    assert dropped(model, ["blocks.2"], DATA, reconstruct=False)(HELD).isfinite().all()


class Beside(nn.Module):
    """A block that sees a value beside its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.side, self.down = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = x + self.down(torch.tanh(self.up(x) + self.side(beside)))
        return out


class Streams(nn.Module):
    """Two streams, computed by turns; a block of the second one sees what went into the block before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(Block(nn.GELU()) for _ in range(3))
        self.second = nn.ModuleList(Beside() for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.second[0](x, x)
        first = self.first[0](x)
        before = self.second[1](y, x)
        second = self.second[2](before, x)
        second = self.second[3](second, before)
        return self.first[2](self.first[1](first)), second


def test_what_is_compared_with_outlasts_a_run_ahead() -> None:
    """Behind the first stream's gap lies the second stream's, the value behind which the last dropped block reads last."""
    model = fill(Streams())
    names = ["first.1", "second.1", "second.3"]
    plain, slim = (dropped(model, names, DATA, reconstruct=each) for each in (False, True))
    for at in range(2):
        wanted, found, cut = (each(HELD)[at].detach() for each in (model, slim, plain))
        assert (found - wanted).norm() < 0.8 * (cut - wanted).norm()


def test_values_of_the_whole_model_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    most = []
    original = Lockstep._release

    def counted(self: Lockstep, reached: Any) -> None:
        original(self, reached)
        most.append(len(self.original.values[0]))

    monkeypatch.setattr(Lockstep, "_release", counted)
    dropped(fill(Net(12)), [f"blocks.{at}" for at in range(2, 10)], DATA)
    weights = 4 * 12 + 2
    assert max(most) <= weights + 12  # fetched weights, and the stream with what little is under way
