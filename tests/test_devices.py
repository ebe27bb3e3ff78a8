"""Every scorer on every device that there is, in float32 and bfloat16: what comes out trains on, where it came from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune.scorer import BUILT_IN

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Tokens(nn.Module):
    """Convolution with BatchNorm, then attention with LayerNorm and neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, 4)
        self.norm = nn.BatchNorm2d(32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.normed = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.normed(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return functional.cross_entropy(output.float(), batch[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scorer", sorted(BUILT_IN))
def test_a_model_is_pruned_where_it_is_in_its_own_type(scorer: str, device: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Tokens().to(device, dtype).eval()
    before = copy.deepcopy(model.state_dict())
    batches = [  # on the CPU: batches are moved to the model
        (
            torch.randn(8, 3, 16, 16, generator=generator).to(dtype),
            torch.randint(0, 4, (8,), generator=generator),
        )
        for _ in range(4)
    ]

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return -sum(float(cross_entropy(candidate(x.to(device)), (x, y.to(device)))) for x, y in batches)

    example = batches[0][0].to(device)
    slim = fxprune.compile(
        model, "60%", example_inputs=example, scorer=scorer, data=batches, loss=cross_entropy, score=score, seed=1
    )
    assert {(each.device.type, each.dtype) for each in slim.parameters()} == {(device, dtype)}
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    slim.train()
    loss = cross_entropy(slim(example), (None, batches[0][1].to(device)))
    loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in slim.parameters())
    again = fxprune.compile(
        model, "60%", example_inputs=example, scorer=scorer, data=batches, loss=cross_entropy, score=score, seed=1
    )
    assert again.plan.kept == slim.plan.kept
