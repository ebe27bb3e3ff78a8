"""Distillation: a loss that has a slim module's outputs follow those of the original.

Logits are compared by the Kullback-Leibler divergence of softened distributions (Hinton et al., arXiv 1503.02531),

    T^2 mean over rows of sum_c p_c (log p_c - log q_c),   p = softmax(teacher / T), q = softmax(student / T)

where T^2 keeps gradients of one size whatever the temperature; other outputs by their mean squared difference. A mix with
the loss on the true targets is (1 - weight) target_loss + weight distillation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.evaluating import evaluating


def distillation_loss(
    student_output: Any,
    teacher_output: Any,
    *,
    temperature: float = 4.0,
    logits: bool | None = None,
    dim: int = -1,
    target_loss: Tensor | None = None,
    weight: float = 0.5,
) -> Tensor:
    """How far a student's outputs are from its teacher's, to be minimised.

    Args:
        student_output: a tensor, or tuples, lists and dicts of them (such as a Transformers `ModelOutput`).
        teacher_output: of the same structure; entries of dicts that the student lacks are passed over.
        temperature: softens the distributions of logits.
        logits: whether outputs are logits; None to take a tensor alone for logits and, of named outputs, those whose
            name ends in "logits".
        dim: dimension of logits along which the classes lie (1 for segmentation, [batch, classes, height, width]).
        target_loss: the loss on the true targets, to be mixed in; None for distillation alone.
        weight: share of distillation in the mix.

    Returns:
        A scalar in float32 or wider: the mean over all outputs of floating-point type.

    Raises:
        InputError: the structures or shapes differ, or there is nothing to compare.

    Example:
        >>> student, teacher = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> distillation_loss(student, teacher).item()
        0.0
    """
    if not temperature > 0 or not 0 <= weight <= 1:
        msg = f"temperature={temperature!r} has to be above 0, and weight={weight!r} between 0 and 1"
        raise InputError(msg)
    alone = isinstance(student_output, Tensor)
    losses = []
    for name, student, teacher in _pairs("", student_output, teacher_output):
        kind = (alone or _last(name).endswith("logits")) if logits is None else logits
        losses.append(_divergence(student, teacher, temperature, dim) if kind else _difference(student, teacher))
    if not losses:
        msg = f"there is no floating-point output to compare in a {type(student_output).__name__}"
        raise InputError(msg)
    loss = torch.stack(losses).mean()
    return loss if target_loss is None else (1 - weight) * target_loss + weight * loss


@dataclass(frozen=True, slots=True)
class Distiller:
    """A teacher with the options of `distillation_loss`, for use in a training loop.

    Attributes:
        teacher: the original; it is run in eval mode and without gradients, and is not changed.
        temperature: softens the distributions of logits.
        logits: whether outputs are logits; None as for `distillation_loss`.
        dim: dimension of logits along which the classes lie.
        weight: share of distillation where a loss on targets is mixed in.

    Example:
        >>> teacher = nn.Linear(4, 3)
        >>> student, images = nn.Linear(4, 3), torch.randn(2, 4)
        >>> distiller = Distiller(teacher)
        >>> loss = distiller(student(images), images)
        >>> loss.backward()
    """

    teacher: nn.Module
    temperature: float = 4.0
    logits: bool | None = None
    dim: int = -1
    weight: float = 0.5

    def __call__(self, student_output: Any, inputs: Any, target_loss: Tensor | None = None) -> Tensor:
        """The loss of the student's output for these inputs.

        Args:
            student_output: what the student returned.
            inputs: what it was given: a tensor, a tuple (positional) or a dict (keyword).
            target_loss: the loss on the true targets, to be mixed in.

        Raises:
            InputError: as `distillation_loss` does.
        """
        return distillation_loss(
            student_output,
            self.outputs(inputs),
            temperature=self.temperature,
            logits=self.logits,
            dim=self.dim,
            target_loss=target_loss,
            weight=self.weight,
        )

    def outputs(self, inputs: Any) -> Any:
        """The teacher's output for inputs: a tensor, a tuple (positional) or a dict (keyword)."""
        with evaluating(self.teacher), torch.no_grad():
            if isinstance(inputs, Mapping):
                return self.teacher(**inputs)
            return self.teacher(*inputs) if isinstance(inputs, tuple | list) else self.teacher(inputs)


def _pairs(name: str, student: Any, teacher: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Tensors of floating-point type at the same places of both, with where that is."""
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        if student.shape != teacher.shape:
            msg = (
                f"output{name} has shape {tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher; "
                "outputs of pruned width cannot be compared: leave them out, or keep them by ignore="
            )
            raise InputError(msg)
        if student.is_floating_point():
            yield name, student, teacher
    elif isinstance(student, Mapping) and isinstance(teacher, Mapping) and student.keys() <= teacher.keys():
        for key in student:
            yield from _pairs(f"{name}[{key!r}]", student[key], teacher[key])
    elif isinstance(student, tuple | list) and isinstance(teacher, tuple | list) and len(student) == len(teacher):
        for at, (left, right) in enumerate(zip(student, teacher, strict=True)):
            yield from _pairs(f"{name}[{at}]", left, right)
    elif any(isinstance(each, Tensor | Mapping | tuple | list) for each in (student, teacher)):
        msg = f"output{name} is {_described(student)} of the student and {_described(teacher)} of the teacher"
        raise InputError(msg)


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output))}"
    return f"a {type(output).__name__}" + (f" of {len(output)}" if isinstance(output, tuple | list) else "")


def _last(name: str) -> str:
    """The innermost key of a place such as `['encoder']['logits']`."""
    return name.rpartition("[")[2].strip("]'")


def _divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """T^2 KL(teacher || student), averaged over rows; classes that the teacher rules out (-inf) do not count."""
    log_q = (_wide(student) / temperature).log_softmax(dim)
    log_p = (_wide(teacher.detach()) / temperature).log_softmax(dim)
    p = log_p.exp()
    terms = p * torch.where(p > 0, log_p - log_q, 0.0)
    return terms.sum(dim).mean() * temperature**2


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    return nn.functional.mse_loss(_wide(student), _wide(teacher.detach()))


def _wide(values: Tensor) -> Tensor:
    """At least float32: sums of half precision lose what they are about."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
