"""The distillation loss against what PyTorch's own functions give, and how it deals with structures."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune import Distiller, distillation_loss
from fxprune.errors import InputError

RANDOM = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(6, 5, generator=RANDOM) for _ in range(2))


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """PyTorch's own."""
    log_q, log_p = (functional.log_softmax(each / temperature, -1) for each in (student, teacher))
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_tensor_alone_is_logits(temperature: float) -> None:
    found = distillation_loss(STUDENT, TEACHER, temperature=temperature)
    torch.testing.assert_close(found, divergence(STUDENT, TEACHER, temperature))
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, logits=False), (STUDENT - TEACHER).square().mean())


def test_logits_of_every_position_and_of_every_pixel() -> None:
    student, teacher = (torch.randn(2, 7, 5, generator=RANDOM) for _ in range(2))
    expected = divergence(student.reshape(14, 5), teacher.reshape(14, 5), 4.0)
    torch.testing.assert_close(distillation_loss(student, teacher), expected)
    pixels = student.reshape(2, 7, 5, 1).permute(0, 2, 1, 3), teacher.reshape(2, 7, 5, 1).permute(0, 2, 1, 3)
    torch.testing.assert_close(distillation_loss(pixels[0], pixels[1], dim=1), expected)


def test_named_outputs_are_told_by_their_names() -> None:
    hidden = torch.randn(2, 3, generator=RANDOM), torch.randn(2, 3, generator=RANDOM)
    student = OrderedDict(logits=STUDENT, hidden=hidden[0], ids=torch.arange(3), cache=None)
    teacher = dict(student, logits=TEACHER, hidden=hidden[1], past=torch.zeros(9))
    expected = (divergence(STUDENT, TEACHER, 4.0) + (hidden[0] - hidden[1]).square().mean()) / 2
    torch.testing.assert_close(distillation_loss(student, teacher), expected)
    nested = {"start_logits": STUDENT, "states": (hidden[0], [hidden[1]])}
    other = {"start_logits": TEACHER, "states": (hidden[1], [hidden[1]])}
    expected = (divergence(STUDENT, TEACHER, 4.0) + (hidden[0] - hidden[1]).square().mean()) / 3
    torch.testing.assert_close(distillation_loss(nested, other), expected)


def test_outputs_of_transformers() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    student = outputs.SequenceClassifierOutput(logits=STUDENT)
    teacher = outputs.SequenceClassifierOutput(logits=TEACHER, hidden_states=(TEACHER,))
    torch.testing.assert_close(distillation_loss(student, teacher), divergence(STUDENT, TEACHER, 4.0))


def test_a_target_loss_is_mixed_in() -> None:
    target = torch.tensor(3.0)
    found = distillation_loss(STUDENT, TEACHER, target_loss=target, weight=0.25)
    torch.testing.assert_close(found, 0.75 * target + 0.25 * divergence(STUDENT, TEACHER, 4.0))


def test_logits_that_the_teacher_rules_out_do_not_spoil_gradients() -> None:
    teacher, student = TEACHER.clone(), STUDENT.clone()
    teacher[:, 0] = student[:, 0] = -torch.inf
    leaf = student.requires_grad_()
    loss = distillation_loss(leaf, teacher)
    loss.backward()
    torch.testing.assert_close(loss, divergence(STUDENT[:, 1:], TEACHER[:, 1:], 4.0))
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_half_precision_is_summed_in_float32() -> None:
    found = distillation_loss(STUDENT.bfloat16(), TEACHER.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, divergence(STUDENT.bfloat16().float(), TEACHER.bfloat16().float(), 4.0))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (STUDENT, TEACHER[:, :4], r"output has shape \(6, 5\) of the student and \(6, 4\)"),
        ({"a": STUDENT}, {"b": TEACHER}, r"a dict of a of the student and a dict of b"),
        ((STUDENT,), (TEACHER, TEACHER), r"a tuple of 1 of the student and a tuple of 2"),
        ({"a": (STUDENT,)}, {"a": TEACHER}, r"output\['a'\] is a tuple of 1 of the student and a Tensor"),
        ({"a": None}, {"a": TEACHER}, r"a NoneType of the student"),
        (torch.arange(3), torch.arange(3), r"no floating-point output"),
    ],
)
def test_outputs_that_do_not_fit(student: Any, teacher: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        distillation_loss(student, teacher)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"weight": 1.5}])
def test_options_that_are_no_use(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="temperature="):
        distillation_loss(STUDENT, TEACHER, **options)  # type: ignore[arg-type]


def test_a_slim_module_learns_from_its_original() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4)).train()
    images = torch.randn(256, 8, generator=RANDOM)
    slim = fxprune.compile(teacher, "50%", example_inputs=images[:2]).eval()
    distiller = Distiller(teacher, temperature=2.0)
    optimizer = torch.optim.Adam(slim.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = distiller(slim(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert teacher.training


def test_inputs_of_the_teacher() -> None:
    class Adder(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    distiller = Distiller(Adder())
    for inputs in ((STUDENT, TEACHER), [STUDENT, TEACHER], {"b": TEACHER, "a": STUDENT}):
        assert torch.equal(distiller.outputs(inputs), STUDENT + TEACHER)
