"""Attention without copies: the same values, gradients and refusals, from views."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

import fxprune
from fxprune import pruning
from fxprune.passes.layout import lay_out, simplify_layout
from fxprune.passes.verify import compare
from tests.emitted import laid_out

aten = torch.ops.aten
COPIES = {aten.contiguous.default, aten.clone.default}


class SelfAttention(nn.Module):
    """One attention over its own input, `[batch, length, 64]` or with the length first."""

    def __init__(self, first: bool, **options: Any) -> None:
        super().__init__()
        self.before = nn.Linear(64, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=first, **options)
        self.after = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        out: Tensor = self.after(x + self.attention(x, x, x, need_weights=False)[0])
        return out


class CrossAttention(nn.Module):
    """Attention over another sequence than the queries'."""

    def __init__(self, first: bool, same: bool) -> None:
        super().__init__()
        self.same = same
        self.attention = nn.MultiheadAttention(64, 4, batch_first=first)
        self.after = nn.Linear(64, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        values = y if self.same else y * 2
        out: Tensor = self.after(self.attention(x, y, values, need_weights=False)[0])
        return out


class Causal(nn.Module):
    """Attention under a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.after = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        found = self.attention(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]
        out: Tensor = self.after(found)
        return out


class Copied(nn.Module):
    """Heads merged with the length first, by a copy, as `nn.MultiheadAttention` does where attention answers batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.merged, self.after = nn.Linear(64, 192), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        query, key, value = (
            each.reshape(batch, length, 4, 16).permute(0, 2, 1, 3) for each in self.packed(x).chunk(3, -1)
        )
        found = functional.scaled_dot_product_attention(query, key, value)
        found = self.merged(found.permute(2, 0, 1, 3).contiguous().view(batch * length, size))
        out: Tensor = self.after(x + found.view(length, batch, size).transpose(1, 0))
        return out


class Decoder(nn.Module):
    """PyTorch's decoder layer: attention to itself, then to the encoder's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.layer(x, y)
        return out


def encoder(first: bool = True) -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=first), 2, enable_nested_tensor=False
    )


X, Y = torch.randn(3, 7, 64), torch.randn(3, 5, 64)
MODELS: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "batch first": (lambda: SelfAttention(True), (X,)),
    "length first": (lambda: SelfAttention(False), (X,)),
    "no bias": (lambda: SelfAttention(True, bias=False), (X,)),
    "dropout": (lambda: SelfAttention(True, dropout=0.3), (X,)),
    "cross": (lambda: CrossAttention(True, same=True), (X, Y)),
    "cross, length first": (lambda: CrossAttention(False, same=True), (X, torch.randn(5, 7, 64))),
    "three inputs": (lambda: CrossAttention(True, same=False), (X, Y)),
    "causal": (Causal, (X,)),
    "encoder": (encoder, (X,)),
    "encoder, length first": (lambda: encoder(False), (X,)),
    "decoder": (Decoder, (X, Y)),
    "copied": (Copied, (X,)),
}


def slims(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[fxprune.SlimModule, fxprune.SlimModule, tuple[Tensor, ...]]:
    """A slim model as cut, and with its attention laid out."""
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    model = make().eval()
    with monkeypatch.context() as patch:
        patch.setattr(pruning, "lay_out", lambda slim, inputs: None)
        plain = fxprune.compile(model, 0.7, example_inputs=inputs, progress=False)
    return plain, fxprune.compile(model, 0.7, example_inputs=inputs, progress=False), inputs


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_the_same_without_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, slim, inputs = slims(name, monkeypatch)
    assert any(node.target in COPIES for node in plain.graph.nodes) or name == "three inputs"
    assert not any(node.target in COPIES for node in slim.graph.nodes)
    assert len(slim.graph.nodes) < len(plain.graph.nodes)
    outputs = [module(*inputs) for module in (plain, slim)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for module, output in zip((plain, slim), outputs, strict=True):
        output.square().sum().backward()
        assert all(each.grad is not None for each in module.parameters())
    for (key, one), (other, two) in zip(plain.named_parameters(), slim.named_parameters(), strict=True):
        assert key == other
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["batch first", "length first", "encoder", "cross"])
def test_other_batches_work_and_other_lengths_are_refused_as_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, slim, inputs = slims(name, monkeypatch)
    at = 1 if "length first" in name else 0
    wider = tuple(torch.cat([each, each], at) for each in inputs)
    longer = tuple(torch.cat([each, each], 1 - at) for each in inputs)
    accepted = [_outcome(plain, wider), _outcome(plain, longer)]
    for inputs, expected in zip((wider, longer), accepted, strict=True):
        found = _outcome(slim, inputs)
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected)
    assert any(each is not None for each in accepted)


def _outcome(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
    try:
        found: Tensor = module(*inputs)
    except RuntimeError:
        return None
    return found


def test_packed_projections_are_taken_apart_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, slim, _ = slims("encoder", monkeypatch)
    assert sum(node.target == aten.unbind.int for node in slim.graph.nodes) == 2
    assert not any(node.target in {aten.select.int, aten.transpose.int} for node in slim.graph.nodes)


def test_attention_that_loses_nothing_itself_is_laid_out_too() -> None:
    model = encoder().eval()
    slim = fxprune.compile(model, 0.8, example_inputs=X, ignore=["*self_attn*"], progress=False)
    assert slim.plan.slices
    assert sum(node.target == aten.unbind.int for node in slim.graph.nodes) == 2
    assert not any(node.target in COPIES for node in slim.graph.nodes)


def test_dropout_in_training_follows_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    _, slim, inputs = slims("dropout", monkeypatch)
    slim.eval()
    assert torch.equal(slim(*inputs), slim(*inputs))


def test_it_is_saved_loaded_and_pruned_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, slim, inputs = slims("encoder", monkeypatch)
    fxprune.save(slim, tmp_path / "slim")
    loaded = fxprune.load(tmp_path / "slim")
    assert torch.equal(loaded(*inputs), slim(*inputs))
    further = fxprune.compile(slim, 0.6, example_inputs=inputs, progress=False)
    assert further.report is not None
    assert sum(each.numel() for each in further.parameters()) < sum(each.numel() for each in slim.parameters())
    names = [{group.name for group in fxprune.analyze(each, inputs).groups} for each in (encoder().eval(), slim)]
    assert names[0] == names[1]


class Odd(nn.Module):
    """Views around products that look like attention's and are something else."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.packed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        packed = self.packed(x.transpose(0, 1))
        if self.kind == "batch and length mixed up":
            parts = packed.unflatten(-1, (3, 8)).unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
            heads = [parts[at].reshape(batch, length * 2, 4).transpose(0, 1) for at in range(3)]
            query, key, value = (each.reshape(length, 2, batch, 4) for each in heads)
        elif self.kind == "not all parts":
            parts = packed.unflatten(-1, (3, 8)).unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
            query, key = (
                parts[at].reshape(length, -1, 4).transpose(0, 1).reshape(batch, 2, length, 4) for at in (0, 2)
            )
            value = key
        else:
            query, key, value = (
                each.reshape(length, -1, 4).transpose(0, 1).reshape(batch, 2, length, 4) for each in packed.chunk(3, -1)
            )
        found = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor
        if self.kind == "merged otherwise":
            out = (
                self.out(found.permute(2, 0, 1, 3).reshape(batch * length, 8)).reshape(batch, length, 8).transpose(0, 1)
            )
        elif self.kind == "transposed features":
            out = self.out(found.permute(0, 2, 1, 3).reshape(batch, length, 8)).transpose(1, 2)
        else:
            out = (
                self.out(found.permute(2, 0, 1, 3).reshape(length * batch, 8)).reshape(length, batch, 8).transpose(1, 0)
            )
        return out


@pytest.mark.parametrize(
    "kind", ["batch and length mixed up", "not all parts", "merged otherwise", "transposed features", "chunks"]
)
@pytest.mark.parametrize("square", [True, False])
def test_what_only_looks_like_attention_computes_the_same(kind: str, square: bool) -> None:
    torch.manual_seed(0)
    laid_out(Odd(kind).eval(), torch.randn(6, 6 if square else 4, 8))


def test_a_layout_that_computes_something_else_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _, inputs = slims("batch first", monkeypatch)
    broken = copy.deepcopy(plain)

    monkeypatch.setattr(
        "fxprune.passes.layout.simplify_layout", lambda module: simplify_layout(module) and _negate(module)
    )
    lay_out(broken, (inputs, {}))
    assert compare([plain(*inputs)], [broken(*inputs)]) == (0.0, False)


class Noisy(SelfAttention):
    """Noise in eval mode as well."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(5)


def test_comparing_draws_the_same_numbers_and_gives_them_back() -> None:
    model, x = Noisy(True).eval(), torch.randn(2, 7, 64)
    before = torch.get_rng_state()
    slim = fxprune.compile(model, 0.7, example_inputs=x, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(node.target == aten.select.int for node in slim.graph.nodes)


def _negate(module: GraphModule) -> bool:
    output = next(iter(reversed(module.graph.nodes)))
    (value,) = output.all_input_nodes
    with module.graph.inserting_before(output):
        negated = module.graph.call_function(aten.neg.default, (value,))
    output.replace_input_with(value, negated)
    module.recompile()
    return True
