"""Capture: what becomes of example inputs, batch sizes, constants, names."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune.capture import capture, structural_copy
from tests.reference import masked_outputs


class Convolution(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 16, 3, stride=4), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(functional.relu(self.conv(x))).mean((2, 3))
        return out


def names(graph_module: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (torch.ones(2, 3, 9, 9), 1, set()),
        ((torch.ones(2, 3, 9, 9),), 1, set()),
        ([torch.ones(2, 3, 9, 9)], 1, set()),
        ({"x": torch.ones(2, 3, 9, 9)}, 0, {"x"}),
    ],
)
def test_example_inputs_as_users_write_them(inputs: Any, args: int, kwargs: set[str]) -> None:
    program = capture(Convolution(), inputs)
    assert len(program.args) == args
    assert set(program.kwargs) == kwargs
    assert program.notes == ()
    slim = fxprune.compile(Convolution(), "100%", example_inputs=inputs)
    assert len(slim.example_inputs[0]) == args


def test_example_inputs_from_a_first_convolution() -> None:
    torch.manual_seed(0)
    program = capture(Convolution())
    assert program.args[0].shape == (1, 3, 224, 224)
    (note,) = program.notes
    assert "1x3x224x224" in note
    slim = fxprune.compile(Convolution(), "50%")
    assert note in slim.report.notes
    assert "1x3x224x224" in str(slim.report)
    assert slim(torch.randn(2, 3, 40, 40)).shape == (2, 4)


def test_inferred_example_inputs_have_the_models_type() -> None:
    assert capture(Convolution().double()).args[0].dtype is torch.float64


def test_example_inputs_from_dummy_inputs() -> None:
    class Dummy(Convolution):
        @property
        def dummy_inputs(self) -> dict[str, Tensor]:
            return {"x": torch.ones(2, 3, 33, 33)}

    program = capture(Dummy())
    assert program.kwargs["x"].shape == (2, 3, 33, 33)
    assert "model.dummy_inputs: x (2, 3, 33, 33)" in program.notes[0]


@pytest.mark.parametrize("attribute", ["pretrained_cfg", "default_cfg"])
def test_example_inputs_from_timm(attribute: str) -> None:
    model = Convolution(1)
    setattr(model, attribute, {"input_size": (1, 28, 28)})
    program = capture(model)
    assert program.args[0].shape == (1, 1, 28, 28)
    assert f"model.{attribute}" in program.notes[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_the_batch_size_is_free(batch: int) -> None:
    program = capture(Convolution(), torch.ones(batch, 3, 9, 9))
    assert program.dynamic_batch
    (placeholder,) = (node for node in program.nodes if node.op == "placeholder")
    assert isinstance(placeholder.meta["val"].shape[0], torch.SymInt)
    assert program.graph_module(torch.ones(5, 3, 9, 9)).shape == (5, 4)


def test_a_batch_size_equal_to_another_size() -> None:
    """Three images of three channels, and as many tokens as there are sequences."""
    slim = fxprune.compile(Convolution(), "50%", example_inputs=torch.ones(3, 3, 9, 9))
    assert slim(torch.ones(2, 3, 9, 9)).shape == (2, 4)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    slim = fxprune.compile(layer, "70%", example_inputs=torch.randn(16, 16, 16))
    assert slim(torch.randn(2, 16, 16)).shape == (2, 16, 16)


class Hard(nn.Module):
    """Insists on two images."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 64), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).relu().view(2, 64).reshape(1, 128).expand(2, 128))
        return out


def test_a_hard_coded_batch_size_is_noted() -> None:
    slim = fxprune.compile(Hard(), "50%", example_inputs=torch.randn(2, 8))
    assert any("batch size is fixed" in note for note in slim.report.notes)
    assert slim(torch.randn(2, 8)).shape == (2, 4)


def test_capture_is_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    program = capture(model, torch.randn(2, 8))
    x = torch.randn(4, 8)
    assert torch.equal(program.graph_module(x), model.eval()(x))
    assert program.training == {"": True, "0": True, "1": True, "2": True}


def test_operations_survive_whole() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    found = names(capture(nn.Sequential(Convolution()), torch.ones(2, 3, 9, 9)).graph_module)
    assert "aten.conv2d.default" in found
    found = names(capture(layer, torch.randn(2, 5, 16)).graph_module)
    for name in ("linear", "layer_norm", "scaled_dot_product_attention", "dropout"):
        assert f"aten.{name}.default" in found


def test_attention_without_gradients_is_captured_by_its_parts() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with torch.no_grad():
        found = names(capture(layer, torch.randn(2, 5, 16)).graph_module)
    assert not any("fast" in name for name in found)
    assert "aten.scaled_dot_product_attention.default" in found


def test_constants_are_folded() -> None:
    class Rotates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            angles = torch.arange(64, dtype=torch.float32) / 10
            out: Tensor = self.head(self.body(x) * torch.outer(angles.cos(), torch.ones(3)).sum(1))
            return out

    program = capture(Rotates(), torch.randn(2, 8))
    (constant,) = program.constants.values()
    torch.testing.assert_close(constant, (torch.arange(64) / 10).cos() * 3)
    assert not any("cos" in name or "arange" in name for name in names(program.graph_module))
    slim = fxprune.compile(Rotates(), "50%", example_inputs=torch.randn(2, 8))
    assert list(slim.state_dict()) == list(Rotates().state_dict())
    assert slim.plan.widths["body"][0] < 64


def test_random_operations_stay() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x)
            out: Tensor = self.head(hidden + torch.randn_like(hidden))
            return out

    slim = fxprune.compile(Noisy(), "50%", example_inputs=torch.randn(2, 8)).eval()
    x = torch.randn(2, 8)
    assert not torch.equal(slim(x), slim(x))


def test_tied_tensors_and_what_is_read() -> None:
    program = capture(Tied(), torch.randn(2, 8))
    assert program.aliases == {"b.weight": "a.weight"}
    assert program.canonical("b.weight") == "a.weight"
    assert program.reached() == {"a.weight", "a.bias", "b.bias"}
    assert set(program.tensors) == {"a.weight", "a.bias", "b.weight", "b.bias", "unread.weight", "unread.bias"}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unread = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x))
        return out


def test_the_structural_copy_shares_tensors_only() -> None:
    model = Tied()
    shell: Any = structural_copy(model)
    assert shell is not model
    assert shell.a is not model.a
    assert shell.a.weight is model.a.weight
    assert shell.b.weight is shell.a.weight
    shell.a.eval()
    assert model.a.training


def test_integers_and_flags_are_baked_in() -> None:
    class Flag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor, times: int = 1, double: bool = False) -> Tensor:
            out: Tensor = self.b(self.a(x)) * times
            return out * 2 if double else out

    model = Flag()
    slim = fxprune.compile(model, "100%", example_inputs=(torch.randn(2, 8), 3, True))
    x = torch.randn(5, 8)
    assert torch.equal(slim(x, 3, True), model(x, 3, True))


class Writes(nn.Module):
    """Writes to what it was given, and to values of its own."""

    def __init__(self, to_input: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)
        self.to_input = to_input

    def forward(self, x: Tensor) -> Tensor:
        if self.to_input:
            x += 1
        hidden = self.a(x)
        hidden.relu_().mul_(2)
        hidden[:, 3] = 0.5
        out: Tensor = self.b(hidden)
        return out


def test_in_place_operations() -> None:
    slim = fxprune.compile(Writes(False), "50%", example_inputs=torch.randn(2, 8))
    assert slim.report.error is not None
    assert slim.report.error < 1e-5


def test_in_place_operations_on_inputs_leave_examples_alone() -> None:
    x = torch.randn(2, 8)
    before = x.clone()
    slim = fxprune.compile(Writes(True), "50%", example_inputs=x)
    assert torch.equal(x, before)
    assert slim.report.error is not None
    assert slim.report.error < 1e-5


class Tokens(nn.Module):
    """Attention over tokens with a mask, whose heads can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Embedding(11, 8), nn.Linear(8, 24)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        batch, length = tokens.shape
        x = self.embed(tokens)
        query, key, value = self.qkv(x).view(batch, length, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        head: Tensor = self.head(x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1)))
        return head


def test_the_length_of_a_sequence_is_free() -> None:
    torch.manual_seed(0)
    model = Tokens().eval()
    inputs = (torch.randint(11, (1, 6)), torch.ones(1, 6, dtype=torch.bool))
    slim = fxprune.compile(model, "70%", example_inputs=inputs)
    graph = capture(model, inputs).graph_module
    assert slim.plan.slices
    assert not slim.report.notes
    for batch, length in ((1, 1), (2, 9), (5, 4)):
        tokens, mask = torch.randint(11, (batch, length)), torch.rand(batch, length) < 0.8
        mask[:, 0] = True
        (expected,) = masked_outputs(graph, slim.plan.slices, (tokens, mask), {})
        torch.testing.assert_close(slim(tokens, mask), expected)


class FixedLength(Tokens):
    """Adds a table of six positions."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(6.0)
        return super().forward(tokens, mask) * positions[:, None]


def test_a_length_that_cannot_be_free_is_noted() -> None:
    program = capture(FixedLength(), (torch.randint(11, (2, 6)), torch.ones(2, 6, dtype=torch.bool)))
    assert program.dynamic_batch
    assert [note for note in program.notes if note.startswith("the sequence length is fixed")]


class Branching(nn.Module):
    """Asks for a value of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if x.sum() > 0:
            hidden = hidden.relu()
        down: Tensor = self.down(hidden)
        return down


def test_branches_on_values_are_baked_in() -> None:
    torch.manual_seed(0)
    model, inputs = Branching(), torch.rand(3, 4)
    slim = fxprune.compile(model, "50%", example_inputs=inputs)
    assert slim.report.notes[0].startswith("the model's Python branches on values of its inputs")
    assert slim.get_parameter("up.weight").shape == (8, 4)
    program = capture(model, inputs)
    assert program.dynamic_batch
    for other in (torch.rand(5, 4), -torch.rand(2, 4)):
        expected = model.down(model.up(other).relu())
        torch.testing.assert_close(program.graph_module(other), expected)


class Flexible(nn.Module):
    """Attention whose scores a function of the positions changes."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, 32] to the same."""
        flexible = importlib.import_module("torch.nn.attention.flex_attention")
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mixed = flexible.flex_attention(q, k, v, score_mod=lambda score, _b, _h, i, j: score + (i - j))
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, 32))
        return out


@pytest.mark.filterwarnings("ignore")
def test_flexible_attention_is_pinned_and_never_cut_wrongly() -> None:
    """Torch captures it without gradients only, and with parts of `vmap` that do not run again."""
    model = nn.Sequential(nn.Linear(16, 32), Flexible(), nn.Linear(32, 4)).eval()
    inputs = torch.randn(2, 16, 16)
    with pytest.raises(fxprune.CaptureError, match="FlexAttention"):
        fxprune.analyze(model, inputs)
    model.requires_grad_(requires_grad=False)
    analysis = fxprune.analyze(model, inputs)
    # As one operation, or as what it does: that depends on what torch has traced before in this process.
    assert any(each in str(analysis) for each in ("flex_attention has no rule", "_remove_batch_dim"))
    assert {group.name for group in analysis.groups} == {"0", "1.out"}
    with pytest.raises(fxprune.CaptureError):
        fxprune.compile(model, "60%", example_inputs=inputs)
