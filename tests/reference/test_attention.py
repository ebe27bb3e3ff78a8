"""The interpreter against slim results written by hand: attention with heads and head dimensions cut."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.reference.helpers import check, randn, randomised


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


class Fused(nn.Module):
    """3 heads of 4."""

    def __init__(self, *, explicit: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.explicit = nn.Linear(5, 36), nn.Linear(12, 5), explicit

    def forward(self, x: Tensor) -> Any:
        query, key, value = self.qkv(x).reshape(2, 6, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.explicit:
            y = torch.softmax(torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(4), dim=-1) @ value
        else:
            y = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(y.transpose(1, 2).reshape(2, 6, 12))


@pytest.mark.parametrize("explicit", [False, True])
def test_heads_of_a_fused_projection(explicit: bool) -> None:
    module, x, heads = randomised(Fused(explicit=explicit)), randn(2, 6, 5), [0, 2]
    kept = [4 * head + i for head in heads for i in range(4)]
    rows = [12 * part + each for part in range(3) for each in kept]

    def slim() -> Any:
        y = F.linear(x, module.qkv.weight[rows], module.qkv.bias[rows])
        query, key, value = y.reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = attend(query, key, value, 0.5).transpose(1, 2).flatten(2)
        return x + F.linear(y, module.out.weight[:, kept], module.out.bias)

    slices = {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "out.weight": {1: kept}}
    check(module, slices, (x,), slim)


@pytest.mark.parametrize("explicit", [False, True])
def test_dimensions_of_heads_keep_the_original_scale(explicit: bool) -> None:
    """Every head chooses its own dimensions, of queries and keys others than of values."""
    module, x = randomised(Fused(explicit=explicit)), randn(2, 6, 5)
    matched, valued = [[0, 1, 3], [0, 1, 2], [1, 2, 3]], [[0, 3], [1, 2], [0, 2]]
    pairs = [4 * head + each for head in range(3) for each in matched[head]]
    values = [4 * head + each for head in range(3) for each in valued[head]]
    rows = pairs + [12 + each for each in pairs] + [24 + each for each in values]

    def slim() -> Any:
        y = F.linear(x, module.qkv.weight[rows], module.qkv.bias[rows])
        query, key, value = (
            each.unflatten(-1, (3, -1)).transpose(1, 2) for each in y.split([len(pairs), len(pairs), len(values)], -1)
        )
        y = attend(query, key, value, 0.5).transpose(1, 2).flatten(2)
        return x + F.linear(y, module.out.weight[:, values], module.out.bias)

    slices = {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "out.weight": {1: values}}
    expected = pytest.raises(AssertionError, match="no grid")
    with expected:  # a fused projection cannot lose other dimensions of values than of keys: its parts are one tensor
        check(module, slices, (x,), slim)
    same = [4 * head + each for head in range(3) for each in matched[head]]
    rows = [12 * part + each for part in range(3) for each in same]
    pairs = values = same
    check(module, {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "out.weight": {1: same}}, (x,), slim)


class Grouped(nn.Module):
    """6 query heads in 3 groups; dimension 2, of values 3."""

    def __init__(self, repeat: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(5, 12), nn.Linear(5, 6), nn.Linear(5, 9), nn.Linear(18, 5)
        self.repeat = repeat

    def repeated(self, x: Tensor) -> Tensor:
        if self.repeat == "gqa":
            return x
        if self.repeat == "interleave":
            return x.repeat_interleave(2, dim=1)
        return x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(2, 6, 4, -1)

    def forward(self, x: Tensor) -> Any:
        query = self.q(x).view(2, 4, 6, 2).transpose(1, 2)
        key = self.k(x).view(2, 4, 3, 2).transpose(1, 2)
        value = self.v(x).view(2, 4, 3, 3).transpose(1, 2)
        gqa = self.repeat == "gqa"
        y = F.scaled_dot_product_attention(query, self.repeated(key), self.repeated(value), enable_gqa=gqa)
        return self.o(y.transpose(1, 2).reshape(2, 4, 18))


@pytest.mark.parametrize("repeat", ["gqa", "interleave", "expand"])
def test_grouped_queries(repeat: str) -> None:
    """Group 1 goes; of the two queries of groups 0 and 2, one each stays; values keep two of their dimensions."""
    module, x = randomised(Grouped(repeat)), randn(2, 4, 5)
    heads, dimensions = [1, 4], [[0, 2], [1, 2]]
    q = [2 * head + i for head in heads for i in range(2)]
    k = [0, 1, 4, 5]
    v = [each + 3 * group for group, kept in zip((0, 2), dimensions, strict=True) for each in kept]
    o = [each + 3 * head for head, kept in zip(heads, dimensions, strict=True) for each in kept]

    def slim() -> Any:
        query = F.linear(x, module.q.weight[q], module.q.bias[q]).view(2, 4, 2, 2).transpose(1, 2)
        key = F.linear(x, module.k.weight[k], module.k.bias[k]).view(2, 4, 2, 2).transpose(1, 2)
        value = F.linear(x, module.v.weight[v], module.v.bias[v]).view(2, 4, 2, 2).transpose(1, 2)
        y = attend(query, key, value, 1 / math.sqrt(2)).transpose(1, 2).flatten(2)
        return F.linear(y, module.o.weight[:, o], module.o.bias)

    slices = {
        f"{name}.{part}": {0: kept} for name, kept in zip("qkv", (q, k, v), strict=True) for part in ("weight", "bias")
    }
    check(module, slices | {"o.weight": {1: o}}, (x,), slim)


def test_bias_by_head_and_a_causal_mask() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(5, 24, bias=False), nn.Linear(8, 5)
            self.position = nn.Parameter(torch.zeros(4, 3, 3))

        def forward(self, x: Tensor) -> Any:
            parts = self.qkv(x).view(2, 3, 4, 6).transpose(1, 2).chunk(3, dim=-1)
            future = torch.ones(3, 3, dtype=torch.bool).triu(1)
            bias = self.position.masked_fill(future, float("-inf"))
            y = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias)
            return self.out(y.transpose(1, 2).flatten(2))

    module, x, heads = randomised(Biased()), randn(2, 3, 5), [0, 3]
    rows = [6 * head + i for head in heads for i in range(6)]
    columns = [2 * head + i for head in heads for i in range(2)]

    def slim() -> Any:
        query, key, value = F.linear(x, module.qkv.weight[rows]).view(2, 3, 2, 6).transpose(1, 2).chunk(3, dim=-1)
        bias = module.position[heads].masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), float("-inf"))
        y = (query @ key.mT / math.sqrt(2) + bias).softmax(-1) @ value
        return F.linear(y.transpose(1, 2).flatten(2), module.out.weight[:, columns], module.out.bias)

    check(module, {"qkv.weight": {0: rows}, "position": {0: heads}, "out.weight": {1: columns}}, (x,), slim)


def test_positions_class_token_and_embedding() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(7, 6), nn.Embedding(5, 6)
            self.token, self.norm, self.out = nn.Parameter(torch.zeros(1, 1, 6)), nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, ids: Tensor) -> Any:
            y = torch.cat([self.token.expand(ids.shape[0], -1, -1), self.words(ids)], dim=1)
            y = self.norm(y + self.places(torch.arange(5)))
            return self.out(y[:, 0] + y.mean(1))

    module, ids, kept = randomised(Embedded()), torch.tensor([[1, 2, 3, 0], [6, 5, 5, 1]]), [0, 1, 4]

    def slim() -> Any:
        y = torch.cat([module.token[..., kept].expand(2, -1, -1), module.words.weight[ids][..., kept]], 1)
        y = F.layer_norm(y + module.places.weight[:, kept], (3,), module.norm.weight[kept], module.norm.bias[kept])
        return F.linear(y[:, 0] + y.mean(1), module.out.weight[:, kept], module.out.bias)

    slices = {
        "words.weight": {1: kept},
        "places.weight": {1: kept},
        "token": {2: kept},
        "norm.weight": {0: kept},
        "norm.bias": {0: kept},
        "out.weight": {1: kept},
    }
    check(module, slices, (ids,), slim)
