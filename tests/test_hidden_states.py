"""Hidden states of a slim model against those of the original, across cut features and dropped blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import hidden_state_loss
from fxprune.errors import InputError
from fxprune.plan import Plan

TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def states(model: nn.Module) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = model(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    return found


def test_cut_features_are_compared_where_they_are_left(llama: Any) -> None:
    slim = fxprune.compile(
        llama, {"params": "60%"}, example_inputs={"input_ids": TOKENS}, search="uniform", config=True
    )
    small = fxprune.apply(slim, llama)
    own, other = states(small), states(llama)
    assert own[0].shape[-1] < other[0].shape[-1]
    kept = torch.tensor(slim.plan.kept["model.embed_tokens"])
    expected = [
        (mine - its[..., kept]).square().mean() / its[..., kept].square().mean()
        for mine, its in zip(own, other, strict=True)
    ]
    torch.testing.assert_close(hidden_state_loss(own, other, slim.plan), torch.stack(expected).mean())
    # what the embedding says of the kept features is the original's
    assert hidden_state_loss(own[:1], other[:1], slim.plan) == 0


def test_dropped_blocks_are_passed_over(llama: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = [torch.randn(2, 3, 8, generator=generator) for _ in range(5)]
    plan = Plan({}, {}, {}, dropped=("model.layers.1", "model.layers.2"))
    assert hidden_state_loss([teacher[0], teacher[3], teacher[4]], teacher, plan) == 0
    assert hidden_state_loss([teacher[0], teacher[1], teacher[4]], teacher, plan) > 0


def test_it_is_free_of_scale_and_trains_the_student_alone() -> None:
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loss = hidden_state_loss([student], [teacher])
    torch.testing.assert_close(hidden_state_loss([7 * student], [7 * teacher]), loss)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert hidden_state_loss([student.bfloat16()], [teacher.bfloat16()]).dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher", "plan", "message"),
    [
        ([], [torch.zeros(1, 2)], None, "no hidden states"),
        ([torch.zeros(1, 2)], [torch.zeros(1, 2)] * 2, None, "no plan is given"),
        ([torch.zeros(1, 2)], [torch.zeros(1, 2)] * 2, Plan({}, {}, {}), "drops 0 blocks"),
        ([torch.zeros(1, 2)], [torch.zeros(1, 3)], None, r"pass plan=slim\.plan"),
        ([torch.zeros(1, 2)], [torch.zeros(1, 3)], Plan({}, {}, {}), "0 different choices of 2 out of 3"),
        (
            [torch.zeros(1, 2)],
            [torch.zeros(1, 3)],
            Plan({"a": [0, 1], "b": [0, 2]}, {}, {"a": (2, 3), "b": (2, 3)}),
            "2 different choices of 2 out of 3",
        ),
        ([torch.zeros(1, 2)], [torch.zeros(2, 3)], Plan({}, {}, {}), "same inputs"),
        ([torch.zeros(1, 2)], [torch.zeros(1, 2)] * 2, Plan({}, {}, {}, dropped=("block",)), "has no number"),
    ],
)
def test_what_cannot_be_matched(student: list[Tensor], teacher: list[Tensor], plan: Plan | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hidden_state_loss(student, teacher, plan)
