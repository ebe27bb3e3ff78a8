"""Tiny language models of Transformers, for tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers

IDS = torch.arange(24).reshape(2, 12) * 7 % 64
PADDED = torch.ones(2, 12, dtype=torch.long).index_put(
    (torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])), torch.tensor(0)
)


def llama(layers: int = 3, **options: Any) -> Any:
    """Grouped-query attention: 2 key/value heads, 4 query heads each."""
    torch.manual_seed(0)
    module: Any = transformers
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 64, "num_hidden_layers": layers, "pad_token_id": 0, **options}
    return module.LlamaForCausalLM(module.LlamaConfig(**sizes)).eval()


def gpt2() -> Any:
    """Linear layers with transposed weights, one projection for queries, keys and values."""
    torch.manual_seed(0)
    module: Any = transformers
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 1, "eos_token_id": 1}
    return module.GPT2LMHeadModel(module.GPT2Config(vocab_size=64, **sizes)).eval()
