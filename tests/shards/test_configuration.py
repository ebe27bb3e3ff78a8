"""Fields of configurations from kept indices: what factors say, and what has to be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fxprune import CheckpointError, Plan
from fxprune.shards.configuration import build, with_layers, with_widths
from fxprune.shards.factors import grid

SMALL: dict[str, Any] = {"vocab_size": 64, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("kept", "sizes", "counts"),
    [
        ([0, 1, 4, 5], [3, 2], [2, 2]),
        ([0, 2, 4], [3, 2], [3, 1]),
        ([1, 2, 5], [3, 2], [3, 1]),  # another dimension within each head
        ([0, 1, 4], [3, 2], None),
        ([8, 9, 10, 11], [2, 2, 4], [1, 1, 4]),
    ],
)
def test_factors_of_kept_indices(kept: list[int], sizes: list[int], counts: list[int] | None) -> None:
    assert grid(np.array(kept), sizes) == counts


def plan_for(model: Any, cuts: dict[str, dict[int, list[int]]]) -> Plan:
    signature = {n: (tuple(t.shape), "float32") for n, t in model.state_dict().items()}
    slices = {name: cuts[suffix] for name in signature for suffix in cuts if name.endswith(suffix)}
    return Plan({}, slices, {}, signature=signature)


def hidden(model: Any, old: int, new: int) -> Plan:
    """A plan that keeps the first hidden features of every parameter that has them."""
    signature = {n: (tuple(t.shape), "float32") for n, t in model.state_dict().items()}
    kept = list(range(new))
    slices = {n: {d: kept for d, size in enumerate(shape) if size == old} for n, (shape, _) in signature.items()}
    return Plan({}, {n: dims for n, dims in slices.items() if dims}, {}, signature=signature)


def test_heads_and_neurons_of_bert() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **SMALL)
    plan = plan_for(build(BertModel, config), {"intermediate.dense.weight": {0: list(range(40))}})
    with pytest.raises(CheckpointError, match=r"intermediate_size would be 40 by .* and 48 by"):
        with_widths(BertModel, config, plan)
    names = ("intermediate.dense.weight", "intermediate.dense.bias")
    cuts = {name: {0: list(range(40))} for name in names}
    cuts |= {f"{layer}.output.dense.weight": {1: list(range(40))} for layer in (0, 1)}
    found = with_widths(BertModel, config, plan_for(build(BertModel, config), cuts))
    assert (found.intermediate_size, found.hidden_size, config.intermediate_size) == (40, 32, 48)


def test_a_scale_in_forward_is_not_changed() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {
        "d_model": 36,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "tie_word_embeddings": True,
    }
    config = T5Config(**sizes, **SMALL)
    plan = hidden(build(T5ForConditionalGeneration, config), 36, 28)
    with pytest.raises(CheckpointError, match="computes a real number from d_model"):
        with_widths(T5ForConditionalGeneration, config, plan)


def test_a_scale_of_the_constructor_is_not_changed() -> None:
    from transformers import GemmaConfig, GemmaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    config = GemmaConfig(**sizes, num_key_value_heads=2, intermediate_size=48, **SMALL)
    with pytest.raises(CheckpointError, match="computes a real number from hidden_size"):
        with_widths(GemmaForCausalLM, config, hidden(build(GemmaForCausalLM, config), 36, 28))


def test_lists_of_one_entry_per_layer_are_shortened() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
    types = ["full_attention", "sliding_attention", "full_attention"]
    config = Qwen3Config(
        **sizes, num_key_value_heads=2, intermediate_size=48, layer_types=types, use_sliding_window=True, **SMALL
    )
    signature = plan_for(build(Qwen3ForCausalLM, config), {}).signature
    found = with_layers(Qwen3ForCausalLM, config, Plan({}, {}, {}, dropped=("model.layers.0",), signature=signature))
    assert (found.num_hidden_layers, found.layer_types) == (2, types[1:])
    with pytest.raises(CheckpointError, match="no field says how many layers other"):
        with_layers(Qwen3ForCausalLM, config, Plan({}, {}, {}, dropped=("other.0",), signature=signature))
