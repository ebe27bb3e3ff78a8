"""Tiny Transformers models, plans of one width per kind for them, and checkpoints of several files."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fxprune
from fxprune import Analysis, SlimModule
from fxprune.budget import parse_budget
from fxprune.depth import choose_blocks, without_blocks
from fxprune.pruning import Making, Subject, rewrite
from fxprune.scores import Scores

IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def llama(**settings: Any) -> Any:
    """A Llama with grouped-query attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 100,
    }
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**{**sizes, **settings}))
    return model.eval()


@cache
def analysed(**settings: Any) -> Analysis:
    """The analysis of such a model; several tests share it."""
    return fxprune.analyze(llama(**settings), IDS)


def cut(widths: Mapping[str, int], drop: Sequence[str] = (), **settings: Any) -> SlimModule:
    """A slim Llama that keeps so many indices, drawn at random, of the groups that patterns name."""
    whole = analysed(**settings)
    blocks = choose_blocks(whole, drop)
    analysis = without_blocks(whole, blocks)
    generator = np.random.default_rng(0)
    kept = {}
    for group in analysis.groups:
        count = next((n for pattern, n in widths.items() if fnmatch.fnmatchcase(group.name, pattern)), group.size)
        if count < group.size:
            rows = [np.sort(generator.permutation(group.size)[:count]) for _ in range(int(np.prod(group.shape[:-1])))]
            kept[group.name] = np.stack(rows).reshape(*group.shape[:-1], count)
    sizes = {group.name: kept[group.name].shape[-1] if group.name in kept else group.size for group in analysis.groups}
    scores = Scores("equal", {group.name: np.ones(group.shape) for group in analysis.groups})
    making = Making({}, "uniform", 0, verify=False, repairing=None)
    limits = parse_budget({"params": 1.0}, whole.costs.original)
    return rewrite(Subject(whole, blocks, analysis, ()), scores, sizes, kept, limits, making, 0.0)


UNIFORM = {"model.embed_tokens": 48, "*.o_proj": 48, "*.gate_proj": 64, "*q_proj:features#1": 3}
"""Hidden features (named after the first projection where embeddings are tied), FFN neurons, key/value groups."""


def save(model: Any, folder: Path, shards: str = "100KB") -> Path:
    """A checkpoint of several files."""
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
