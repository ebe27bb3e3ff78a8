"""`MultiheadAttention` computes what PyTorch's own computes, and what the cut asks for."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.apply.attention import MultiheadAttention
from tests.apply.helpers import check

OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 6, "vdim": 10},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_as_torch(options: dict[str, Any], batch_first: bool, masked: bool) -> None:
    torch.manual_seed(0)
    own = nn.MultiheadAttention(12, 3, batch_first=batch_first, **options).eval()
    free = copy.deepcopy(own)
    free.__class__ = MultiheadAttention
    assert isinstance(free, MultiheadAttention)
    free.scale, free.query_width = 1.0 / math.sqrt(4), 12
    shape = (2, 5) if batch_first else (5, 2)
    query = torch.randn(*shape, 12)
    key, value = torch.randn(*shape, options.get("kdim", 12)), torch.randn(*shape, options.get("vdim", 12))
    masks: dict[str, Any] = {}
    if masked:
        masks["key_padding_mask"] = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        masks["attn_mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for average in (True, False):
        ours, theirs = (m(query, key, value, average_attn_weights=average, **masks) for m in (free, own))
        torch.testing.assert_close(ours, theirs)
    assert free(query, key, value, need_weights=False)[1] is None


def test_heads_and_their_dimensions_are_free_of_the_models_width() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 3)
    )
    made, _ = check(model, torch.randn(2, 5, 8), "50%", align=1)
    encoder: Any = made[1]
    assert all(isinstance(each.self_attn, nn.MultiheadAttention) for each in encoder.layers)
    made.train()(torch.randn(2, 5, 8)).sum().backward()
