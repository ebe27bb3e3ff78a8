"""Torch-Pruning on the language model, in a process of its own with a time limit, as it does not end on every model.

    python -m benchmarks.llm_torch_pruning GIVEN BODY OUT

Reads the model from GIVEN, prunes widths by the L2 norm of groups, one ratio for all layers, until its parameters without
embeddings are at most BODY, and writes it to OUT. As in the library's example for language models, the output layer is
ignored and heads are declared; the sizes that the attention modules hold are set afterwards.
"""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_pruning_budget import fresh_groupings, largest_within
from fxprune.cli.vision_operators import declare_vision_operators

TRIES = 8


def body(model: nn.Module) -> int:
    """Parameters without embeddings."""
    return sum(each.numel() for name, each in model.named_parameters() if "embed" not in name and "lm_head" not in name)


def attempt(model: nn.Module, ratio: float, tokens: Tensor) -> nn.Module:
    """A copy, pruned by one ratio."""
    import torch_pruning

    made: Any = copy.deepcopy(model).requires_grad_(True)
    heads: dict[nn.Module, int] = {}
    for layer in made.model.layers:
        heads[layer.self_attn.q_proj] = made.config.num_attention_heads
        heads |= dict.fromkeys((layer.self_attn.k_proj, layer.self_attn.v_proj), made.config.num_key_value_heads)
    pruner = torch_pruning.pruner.BasePruner(
        made,
        {"input_ids": tokens, "use_cache": False},
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=ratio,
        ignored_layers=[made.lm_head],
        output_transform=lambda output: output["logits"],
        **fresh_groupings(),
    )
    pruner.step()
    for layer in made.model.layers:
        attention = layer.self_attn
        query, key = (each.out_features // attention.head_dim for each in (attention.q_proj, attention.k_proj))
        attention.num_key_value_groups = query // key
    slim: nn.Module = made.eval()
    slim(input_ids=tokens, use_cache=False)
    return slim


def main() -> None:
    """Read, prune, write."""
    warnings.simplefilter("ignore")
    declare_vision_operators()
    given, budget, out = sys.argv[1:]
    # Both files are the benchmark's own.
    model, tokens = torch.load(given, weights_only=False)
    _, slim = largest_within(lambda ratio: attempt(model, ratio, tokens), body, float(budget), TRIES)
    torch.save(slim, out)


if __name__ == "__main__":
    main()
