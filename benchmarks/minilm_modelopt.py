"""ModelOpt's GradNAS on the MiniLM encoder, in an interpreter of its own: `gradnas` left ModelOpt after 0.40.

    python -m benchmarks.minilm_modelopt WORK SHARE OUT

Reads batches, targets and test text from WORK (written by minilm.py) and writes a line of results as JSON to OUT. What it
takes to run: attention in plain operations, as head masks need them, and a `forward` with positional arguments and tuples
as outputs, which its profiler needs; both from the same weights. Batches of 16, of which 128 are seen, are its default.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.minilm_data import Data, budget_of, judge, load, sketch_loss


class Positional(nn.Module):
    """The encoder with positional inputs and a tuple as output."""

    def __init__(self, model: nn.Module) -> None:
        """Hold the model."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """Last hidden states."""
        inputs = {"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": attention_mask}
        return (self.model(**inputs, return_dict=False)[0],)


def prune(model: nn.Module, data: Data, share: float) -> nn.Module:
    """GradNAS to a number of parameters."""
    import modelopt.torch.prune as mtp  # type: ignore[import-not-found]

    config = {
        "data_loader": [each for batch in data for each in split(batch, 16)],
        "loss_func": sketch_loss,
        "collect_func": lambda batch: tuple(batch.values()),
        "max_iter_data_loader": 128,
    }
    pruned: nn.Module
    pruned, _ = mtp.prune(
        copy.deepcopy(model).requires_grad_(True),
        mode="gradnas",
        constraints={"params": budget_of(model, share)},
        dummy_input=tuple(value[:2] for value in data[0].values()),
        config=config,
    )
    return pruned


def split(batch: dict[str, Tensor], size: int) -> Data:
    """Smaller batches."""
    count = len(next(iter(batch.values())))
    return [{name: value[at : at + size] for name, value in batch.items()} for at in range(0, count, size)]


def main() -> None:
    """Prune, judge, write."""
    work: dict[str, Any] = torch.load(sys.argv[1], weights_only=True)
    model = Positional(load(attn_implementation="eager")[0]).eval()
    started = time.perf_counter()
    pruned = prune(model, work["data"], float(sys.argv[2]))
    found = judge(pruned, work, time.perf_counter() - started)
    Path(sys.argv[3]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
