"""How Transformers architectures are made small: entries of their configurations that many of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 128
LABELS = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one architecture is made small.

    Attributes:
        auto: name of the auto class, or of a model class.
        inputs: what the forward takes: "tokens", "pair" (encoder and decoder tokens), "pair with mask", "image", "clip"
            (frames), "image and text", "sound" (samples), "spectrogram" or "speech" (spectrogram and decoder tokens).
        config: entries of the configuration.
    """

    auto: str
    inputs: str
    config: Mapping[str, Any] = field(default_factory=dict)


BLOCKS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {**BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0}
GROUPED = {**TOKENS, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 16}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
SSM = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 8}
SIDES = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
}
T5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}
PATCHES = {**BLOCKS, "image_size": 64, "patch_size": 16}
STAGES = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1]}
CONVOLUTIONS = {
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
}


def decoder(**config: Any) -> Recipe:
    """A causal language model."""
    return Recipe("AutoModelForCausalLM", "tokens", config)


def encoder(**config: Any) -> Recipe:
    """A text classifier."""
    return Recipe("AutoModelForSequenceClassification", "tokens", {**TOKENS, "num_labels": LABELS, **config})


def pair(**config: Any) -> Recipe:
    """An encoder-decoder language model."""
    return Recipe(
        "AutoModelForSeq2SeqLM",
        "pair",
        {"vocab_size": VOCABULARY, "pad_token_id": 0, "decoder_start_token_id": 0, **config},
    )


def image(**config: Any) -> Recipe:
    """An image classifier."""
    return Recipe("AutoModelForImageClassification", "image", {"image_size": 64, "num_labels": LABELS, **config})


def sound(**config: Any) -> Recipe:
    """A classifier of sound waves."""
    return Recipe(
        "AutoModelForAudioClassification", "sound", {**BLOCKS, **CONVOLUTIONS, "num_labels": LABELS, **config}
    )
