"""Train, prune, distil, save: a small Llama on the source of Python's standard library, a few minutes on one core.

    python examples/prune_language_model.py [--steps 400] [--out DIR]

A model on bytes is trained, then loses 30 % of its parameters: a layer goes, the other widths are cut for the rest, one width for
each kind, so that the configuration can say them. What is left is repaired on text without training, then follows the
original for a quarter of its steps. It is written by `save_pretrained` as a plain Transformers model, and a fresh process
that does not know fxprune loads it and goes on with a text. Needs `transformers`.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

import fxprune

LENGTH, BATCH, RATE = 128, 16, 2e-3
CONTINUE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
prompt = b"def __init__(self, "
found = model.generate(torch.tensor([list(prompt)]), max_new_tokens=60, do_sample=False, pad_token_id=0)
assert "fxprune" not in sys.modules
print(f"loaded by Transformers alone: {model.config.num_hidden_layers} layers, hidden size {model.config.hidden_size}")
print("  " + repr(bytes(found[0].tolist()).decode(errors="replace")))
"""


def text() -> tuple[Tensor, Tensor]:
    """Bytes of modules of the standard library, to train on and held out."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    joined = [b"\0".join(each.read_bytes() for each in files[start::step]) for start, step in ((0, 2), (1, 16))]
    train, held = (torch.frombuffer(bytearray(each), dtype=torch.uint8).long() for each in joined)
    return train, held


def windows(stream: Tensor, number: int, seed: int) -> Tensor:
    """Random pieces, `[number, LENGTH]`."""
    starts = torch.randint(0, len(stream) - LENGTH, (number,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([stream[start : start + LENGTH] for start in starts.tolist()])


def next_byte_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of every byte but the first."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train(model: nn.Module, stream: Tensor, steps: int, distiller: fxprune.Distiller | None = None) -> None:
    """In place; with a teacher, half of the loss is how far its distributions are."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(steps, 2))
    model.train()
    for step in range(steps):
        tokens = windows(stream, BATCH, seed=step)
        output = model(input_ids=tokens, use_cache=False)
        loss = next_byte_loss(output["logits"], tokens)
        if distiller is not None:
            loss = distiller({"logits": output["logits"]}, {"input_ids": tokens, "use_cache": False}, loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def perplexity(model: nn.Module, stream: Tensor) -> float:
    """Per byte of held-out text."""
    tokens = windows(stream, 64, seed=-1 % 2**31)
    return math.exp(float(next_byte_loss(model(input_ids=tokens, use_cache=False)["logits"], tokens)))


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(each.numel() for each in model.parameters())


def pruned(model: Any, stream: Tensor) -> Any:
    """A plain Transformers model with 70 % of the parameters."""
    data = [{"input_ids": windows(stream, BATCH, seed=seed)} for seed in range(1000, 1016)]
    slim = fxprune.compile(model, {"params": "70%"}, scorer="minitron", data=data, drop=1, config=True)
    print(slim.report)
    return fxprune.apply(slim, model, config=True)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="of the training; a quarter for distillation")
    parser.add_argument("--out", type=Path, help="where the model is saved; default: nowhere that stays")
    options = parser.parse_args()
    torch.manual_seed(0)
    stream, held = text()
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "num_key_value_heads": 3}
    config = LlamaConfig(
        vocab_size=256, num_hidden_layers=5, max_position_embeddings=512, tie_word_embeddings=True, **shape
    )
    model = LlamaForCausalLM(config)
    train(model, stream, options.steps)
    print(f"original: {size(model):,} parameters, perplexity {perplexity(model, held):.3f}")
    small = pruned(model, stream)
    print(f"pruned and repaired: {size(small):,} parameters, perplexity {perplexity(small, held):.3f}")
    train(small, stream, options.steps // 4, fxprune.Distiller(model, temperature=1.0))
    print(f"distilled: perplexity {perplexity(small, held):.3f}")
    with tempfile.TemporaryDirectory() as name:
        out = options.out or Path(name)
        small.save_pretrained(out)
        subprocess.run([sys.executable, "-W", "ignore", "-c", CONTINUE, str(out)], check=True)


if __name__ == "__main__":
    main()
