"""The language model of the benchmark, its training from nothing, its distillation, and its perplexity.

A Llama-style model with grouped-query attention. One recipe for every training: AdamW (0.9, 0.95), weight decay 0.1, gradients
clipped at norm 1, a warm-up of 2 % of the steps, then a cosine to zero; bfloat16 autocast on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.llm_text import Text, windows
from fxprune.cli.vision_operators import declare_vision_operators


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of a model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast a model is trained.

    Attributes:
        steps: optimizer steps.
        batch: sequences to a step.
        length: tokens of a sequence.
        rate: the highest learning rate.
        seed: of the order of the text.
    """

    steps: int
    batch: int
    length: int
    rate: float
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are seen."""
        return self.steps * self.batch * self.length


def build(shape: Shape, length: int, seed: int) -> nn.Module:
    """A model with random weights and tied embeddings."""
    declare_vision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **asdict(shape), max_position_embeddings=4 * length, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0
    )
    model: nn.Module = LlamaForCausalLM(config).eval()
    return model


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """Next-token logits, `[batch, tokens, vocabulary]`; no cache is kept."""
    output = model(input_ids=tokens, use_cache=False) if hasattr(model, "config") else model(input_ids=tokens)
    found: Tensor = output["logits"]
    return found


def next_token_loss(output: Any, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats of every token but the first."""
    found = output if isinstance(output, Tensor) else output["logits"]
    return functional.cross_entropy(found[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def fit(
    model: nn.Module, text: Text, recipe: Recipe, device: str, loss: Callable[[nn.Module, Tensor], Tensor] | None = None
) -> list[float]:
    """Train in place; the losses of the steps."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(groups(model), lr=recipe.rate, betas=(0.9, 0.95), fused=device != "cpu")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe.steps))
    losses: list[float] = []
    history: list[Tensor] = []
    for tokens in batches(text, recipe, device):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            found = next_token_loss(logits(model, tokens), tokens) if loss is None else loss(model, tokens)
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(found.detach())
    losses += torch.stack(history).float().tolist()
    model.eval()
    return losses


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices decay, the rest does not."""
    found = [each for each in model.parameters() if each.requires_grad]
    return [
        {"params": [each for each in found if each.ndim >= 2], "weight_decay": 0.1},
        {"params": [each for each in found if each.ndim < 2], "weight_decay": 0.0},
    ]


def rate(step: int, steps: int) -> float:
    """Share of the highest learning rate."""
    warm = max(steps // 50, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def batches(text: Text, recipe: Recipe, device: str) -> Iterator[Tensor]:
    """Random windows of the training text, another set for every step."""
    for step in range(recipe.steps):
        found = windows(text.train, recipe.length, recipe.batch, recipe.seed * 1_000_003 + step)
        yield found.to(device, non_blocking=True)


@torch.no_grad()
def perplexity(model: nn.Module, held: Tensor, device: str, batch: int = 16) -> float:
    """Of held-out windows `[windows, length]`, in float32; every token but the first of a window counts."""
    model.to(device).eval()
    total = sum(
        float(next_token_loss(logits(model, part.to(device)), part.to(device))) * len(part)
        for part in held.split(batch)
    )
    return math.exp(total / len(held))


def followed(teacher: nn.Module) -> Callable[[nn.Module, Tensor], Tensor]:
    """Loss of a student that follows a teacher and the text: half the KL divergence between them, half the cross-entropy."""

    def loss(student: nn.Module, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            target = logits(teacher, tokens).float().log_softmax(-1)
        output = logits(student, tokens)
        divergence = functional.kl_div(output.float().log_softmax(-1), target, log_target=True, reduction="none")
        return 0.5 * divergence.sum(-1).mean() + 0.5 * next_token_loss(output, tokens)

    return loss
