"""Attention masks that hide nothing are left out of slim models, and all others are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional

import fxprune
from fxprune.passes.masks import has_idle_mask

aten = torch.ops.aten
Mask = Callable[[Tensor], Tensor]


class Masked(nn.Module):
    """Attention under a mask that a function makes of the embeddings, [batch, length, 32], of tokens of any length."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.mask = mask
        self.heads = 4
        self.tokens = nn.Embedding(20, 32)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.tokens(tokens) if tokens.dtype == torch.long else tokens
        query, key, value = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        found = functional.scaled_dot_product_attention(query, key, value, self.mask(x))
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


def row(x: Tensor, more: int = 0) -> Tensor:
    return torch.arange(x.shape[1])[None, None, :, None] + more


def square(x: Tensor, mask: Tensor) -> Tensor:
    return mask.expand(x.shape[0], 1, x.shape[1], x.shape[1])


def written(x: Tensor) -> Tensor:
    mask = square(x, row(x) >= 0).clone()
    mask[..., 1:] = False
    return mask


def float_written(x: Tensor) -> Tensor:
    positions = torch.arange(x.shape[1], dtype=x.dtype)
    positions[2:] -= 10
    return square(x, (positions >= 0)[None, None, None])


def overflowing(x: Tensor) -> Tensor:
    return square(x, (torch.arange(x.shape[1], dtype=torch.int8) + 100 + 26 >= 0)[None, None, None])


def window(x: Tensor) -> Tensor:
    """Each position sees those fewer than 8 away: all, where there are 6."""
    positions = torch.arange(x.shape[1])
    return square(x, ((positions[:, None] - positions).abs() < 8)[None, None])


IDLE: dict[str, Mask] = {
    "positions": lambda x: square(x, row(x) >= 0),
    "later positions": lambda x: square(x, row(x, 3) >= 2),
    "both": lambda x: square(x, (row(x) >= 0) & (row(x, 1) >= 1)),
    "small": lambda x: (row(x) >= 0)[0, 0],
}
NEEDED: dict[str, Mask] = {
    "earlier positions": lambda x: square(x, row(x, -2) >= 0) | (row(x) == row(x).transpose(2, 3)),
    "causal": lambda x: square(x, row(x) >= row(x).transpose(2, 3)),
    "of the input": lambda x: square(x, (row(x) >= 0) & (x[:, None, None, :, 0] < 9)),
    "written into": written,
    "written into as numbers": float_written,
    "overflowing": overflowing,
    "window": window,
    "numbers": lambda x: square(x, (row(x) >= 0)).to(x.dtype) * row(x).transpose(2, 3),
}


def masks(slim: fxprune.SlimModule) -> list[object]:
    calls = [node for node in slim.graph.nodes if node.target == aten.scaled_dot_product_attention.default]
    assert calls
    return [node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask") for node in calls]


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, 20, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*IDLE, *NEEDED])
def test_only_masks_that_hide_nothing_are_left_out(name: str) -> None:
    torch.manual_seed(0)
    model = Masked((IDLE | NEEDED)[name]).eval()
    slim = fxprune.compile(model, "60%", example_inputs=tokens(2, 6))
    assert [isinstance(mask, Node) for mask in masks(slim)] == [name in NEEDED]
    if name in IDLE:
        assert not any(node.target == aten.arange.default for node in slim.graph.nodes)
    applied = fxprune.apply(slim, model)
    for x in (tokens(3, 6), tokens(1, 4), tokens(2, 12)):
        torch.testing.assert_close(slim(x), applied(x), rtol=1e-4, atol=1e-5)


def test_what_keeps_everything_keeps_its_masks() -> None:
    """Other kernels round otherwise."""
    torch.manual_seed(0)
    model = Masked(IDLE["positions"]).eval()
    slim = fxprune.compile(model, 1.0, example_inputs=tokens(2, 6))
    assert all(isinstance(mask, Node) for mask in masks(slim))
    assert torch.equal(slim(tokens(3, 7)), model(tokens(3, 7)))


@pytest.mark.parametrize("name", ["positions", "window"])
def test_masks_of_a_fixed_length_stay_for_what_they_would_hide_from_others(name: str) -> None:
    torch.manual_seed(0)
    slim = fxprune.compile(Masked((IDLE | NEEDED)[name]).eval(), "60%", example_inputs=torch.randn(2, 6, 32))
    assert all(isinstance(mask, Node) for mask in masks(slim))
    with pytest.raises(RuntimeError, match=r"expand|must match"):
        slim(torch.randn(2, 12, 32))


@pytest.mark.parametrize(
    ("shape", "idle"), [((1, 1, 6, 1), True), ((6, 1), True), ((3, 1, 6, 1), False), ((1, 1, 5, 1), False)]
)
def test_a_mask_that_multiplies_the_result_stays(shape: tuple[int, ...], idle: bool) -> None:
    graph = Graph()
    query, one = graph.placeholder("query"), graph.get_attr("one")
    mask = graph.call_function(aten.expand.default, (one, shape))
    query.meta["val"], mask.meta["val"] = torch.zeros(1, 2, 6, 8), torch.ones(shape, dtype=torch.bool)
    node = graph.call_function(aten.scaled_dot_product_attention.default, (query, query, query, mask))
    assert has_idle_mask(node, {"one": torch.tensor(True)}) is idle


def test_a_slim_bert_has_no_mask_where_none_is_given() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=60)).eval()
    slim = fxprune.compile(model, "60%", example_inputs=(tokens(2, 9),))
    assert masks(slim) == [None, None]
    given = {"input_ids": tokens(2, 9), "attention_mask": torch.ones_like(tokens(2, 9))}
    assert all(isinstance(mask, Node) for mask in masks(fxprune.compile(model, "60%", example_inputs=given)))
