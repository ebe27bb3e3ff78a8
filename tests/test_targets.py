"""Exact widths by numbers of a configuration, and by names of groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxprune
from tests.tiny_languages import IDS, gpt2, llama

LAYER = "model.layers.1."


def made(model: Any, config: dict[str, int], **options: Any) -> fxprune.SlimModule:
    options = {"example_inputs": {"input_ids": IDS}, "scorer": "magnitude", "progress": False, **options}
    limits = options.pop("limits", {})
    return fxprune.compile(model, {"config": config, **limits}, **options)


def widths_of(slim: fxprune.SlimModule, *names: str) -> list[int]:
    return [slim.plan.widths[name][0] for name in names]


def test_widths_and_depth_of_a_llama() -> None:
    """The class itself, with the new configuration, takes the weights and computes the same."""
    model = llama(3)
    config = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 3, "num_key_value_heads": 1}
    slim = made(model, config, data=[{"input_ids": IDS}], scorer="minitron", reconstruct=False)
    (dropped,) = slim.plan.dropped
    layer = next(name for name in ("model.layers.1.", "model.layers.2.") if not name.startswith(dropped))
    attention = f"{layer}self_attn."
    assert widths_of(slim, "model.embed_tokens", f"{layer}mlp.gate_proj") == [48, 56]
    assert widths_of(slim, f"{attention}q_proj:features#1", f"{attention}q_proj:features#2") == [1, 3]
    assert widths_of(slim, f"{attention}v_proj") == [8]
    assert slim.plan.budget["config"] == ", ".join(f"{name}={value}" for name, value in config.items())
    plain = llama(2, head_dim=8, **config)
    left = [at for at in range(3) if f"model.layers.{at}" != dropped]
    names = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(left)}
    weights = {}
    for name, value in slim.state_dict().items():
        old = next((old for old in names if name.startswith(old)), "")
        weights[names.get(old, "") + name[len(old) :]] = value
    plain.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, slim(input_ids=IDS)["logits"])


def test_what_lies_inside_heads_is_told_from_heads() -> None:
    """Both have the same shapes: 1 key/value head of 8 dimensions, or 2 of 4."""
    slim = made(llama(1), {"head_dim": 4})
    attention = "model.layers.0.self_attn."
    assert widths_of(slim, f"{attention}q_proj:features#1", f"{attention}q_proj:features#2") == [2, 4]
    assert widths_of(slim, f"{attention}q_proj:features#3", f"{attention}v_proj") == [2, 4]


def test_a_width_that_the_configuration_divides_among_heads() -> None:
    """GPT-2's heads have n_embd / n_head dimensions, so n_head stays and they get narrower."""
    slim = made(gpt2(), {"hidden_size": 24})
    layer = "transformer.h.1.attn."
    assert widths_of(slim, f"{layer}c_proj:heads", f"{layer}c_proj:value dimensions", f"{layer}c_attn") == [4, 6, 6]


def test_names_of_groups_and_patterns() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    assert made(model, {"0": 13}, example_inputs=torch.randn(2, 8)).plan.widths == {"0": (13, 32)}
    slim = made(llama(2), {"*.mlp.gate_proj": 50})
    assert widths_of(slim, LAYER + "mlp.gate_proj", "model.layers.0.mlp.gate_proj", "model.embed_tokens") == [
        50,
        50,
        64,
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "write exact widths"),
        ({"hidden_size": 0}, "whole number from 1 on"),
        ({"hidden_size": 128}, r"makes model.embed_tokens.weight larger: \(64, 64\) would be \(64, 128\)"),
        ({"vocab_size": 32}, "names no width that can be cut: cutting model.embed_tokens.weight from"),
        ({"num_key_value_heads": 1}, "heads are cut with num_attention_heads and num_key_value_heads together"),
        ({"max_position_embeddings": 32}, "names no width"),
        ({"model.layer.0.mlp": 32}, "no group that can be cut"),
        ({"*.mlp.gate_proj": 200}, r"gate_proj=200, but model.layers.0.mlp.gate_proj has 96"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, int], message: str, scored: Any) -> None:
    model, scores = scored
    with pytest.raises(fxprune.BudgetError, match=message):
        made(model, config, scores=scores, scorer="auto")


def test_depth_by_name_and_by_configuration_have_to_agree(scored: Any) -> None:
    model, scores = scored
    with pytest.raises(fxprune.BudgetError, match="drop= takes 1 blocks, and the budget's config 0"):
        made(llama(2), {"intermediate_size": 64}, drop=["model.layers.0"])
    with pytest.raises(fxprune.InputError, match="exclude each other"):
        made(model, {"intermediate_size": 64}, scores=scores, scorer="auto", search="uniform")


def test_other_limits_hold_too(scored: Any) -> None:
    model, scores = scored
    with pytest.raises(fxprune.InfeasibleBudget, match="do not hold its limits"):
        made(model, {"intermediate_size": 90}, scores=scores, scorer="auto", limits={"params": "50%"})


@pytest.fixture(scope="module")
def scored() -> Any:
    model = llama(1)
    scores = fxprune.compile(model, {"params": 1.0}, example_inputs={"input_ids": IDS}, verify=False).scores
    return model, scores
