"""Torch-Pruning on the MiniLM encoder: FFN neurons and whole heads by the L2 norm of their groups.

As its examples for BERT do it: heads are declared (`num_heads`, `prune_num_heads`), and what writes to the residual stream
is ignored, so that its width stays; one ratio for all layers (`global_pruning=False`), or all groups ranked together. It has
no budget, so the ratio is bisected until the parameters come just under it. The sizes in the attention modules that pruning
does not know of are set afterwards.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from benchmarks.minilm_data import Data, budget_of
from benchmarks.torch_pruning_budget import fresh_groupings, largest_within

TRIES = 12


def prune_torch_pruning(model: nn.Module, data: Data, share: float, *, together: bool) -> nn.Module:
    """The largest model within the budget that bisection meets."""

    def size(made: nn.Module) -> int:
        return sum(each.numel() for each in made.parameters())

    _, slim = largest_within(
        lambda ratio: _attempt(model, data, ratio, together=together), size, budget_of(model, share), TRIES
    )
    return slim


def _attempt(model: nn.Module, data: Data, ratio: float, *, together: bool) -> nn.Module:
    import torch_pruning

    made: Any = copy.deepcopy(model).requires_grad_(True)
    heads: dict[nn.Module, int] = {}
    ignored: list[nn.Module] = [made.embeddings, made.pooler]
    for layer in made.encoder.layer:
        attention = layer.attention.self
        heads |= dict.fromkeys((attention.query, attention.key, attention.value), attention.num_attention_heads)
        ignored += [layer.attention.output.dense, layer.output.dense]
    example = {name: value[:2] for name, value in data[0].items()}
    pruner = torch_pruning.pruner.BasePruner(
        made,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=together,
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=ratio,
        ignored_layers=ignored,
        output_transform=lambda output: output["last_hidden_state"],
        **fresh_groupings(),
    )
    pruner.step()
    for layer in made.encoder.layer:
        attention = layer.attention.self
        attention.num_attention_heads = pruner.num_heads[attention.query]
        attention.all_head_size = attention.query.out_features
    slim: nn.Module = made.eval().requires_grad_(False)
    return slim
