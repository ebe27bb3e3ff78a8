"""Cuts that are never allowed are named, and grids are told from what is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.reference import alive_shapes, compact, masked_outputs
from tests.reference.helpers import captured, randn, randomised
from tests.reference.parameters import parameter_mask


class Then(nn.Module):
    """A layer of 6 and then a function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.a, self.function = nn.Linear(3, 6), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.a(x))  # type: ignore[operator, no-any-return]


CUT = {"a.weight": {0: [0, 2, 5]}, "a.bias": {0: [0, 2, 5]}}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, "output 0 of shape"),
        (lambda x: x.softmax(-1), "cut along softmax"),
        (lambda x: x.cumsum(-1).sum(-1), "cut along cumsum"),
        (lambda x: x.argmax(-1), "cut along argmax"),
        (lambda x: x.max(dim=-1).values, "cut along max"),
        (lambda x: x.topk(2, dim=-1).values, "cut along topk"),
        (lambda x: nn.functional.avg_pool1d(x, 2), "cut along the spatial axes"),
        (lambda x: nn.functional.conv1d(x.unsqueeze(1), torch.ones(1, 1, 3, dtype=x.dtype)), "convolution's spatial"),
        (lambda x: x.select(1, 1), "output 0 of shape"),
    ],
)
def test_a_cut_that_is_not_allowed(function: object, message: str) -> None:
    x = randn(2, 3)
    graph = captured(randomised(Then(function)), x)
    with pytest.raises(AssertionError, match=message):
        masked_outputs(graph, CUT, (x,))


def test_an_operation_without_a_rule() -> None:
    x = randn(2, 3)
    graph = captured(randomised(Then(lambda y: torch.fft.fft(y).real.sum(-1))), x)
    masked_outputs(graph, {}, (x,), shortcut=False)
    with pytest.raises(NotImplementedError, match="fft"):
        masked_outputs(graph, CUT, (x,))


def test_a_plan_that_leaves_no_dense_tensor() -> None:
    x = randn(2, 3)
    graph = captured(randomised(Then(lambda y: y.view(2, 2, 3).sum(-1))), x)
    cut = {"a.weight": {0: [0, 1, 4]}, "a.bias": {0: [0, 1, 4]}}
    masked_outputs(graph, cut, (x,))
    with pytest.raises(AssertionError, match=r"view .*no grid"):
        alive_shapes(graph, cut, (x,))


def test_slices_that_name_nothing() -> None:
    x = randn(2, 3)
    graph = captured(randomised(Then(lambda y: y.sum(-1))), x)
    with pytest.raises(AssertionError, match=r"no b\.weight"):
        masked_outputs(graph, {"b.weight": {0: [0]}}, (x,))


def test_compact_packs_products_and_nested_choices() -> None:
    value = torch.arange(24).reshape(2, 3, 4)
    rows = parameter_mask((2, 3, 4), {1: [0, 2], 2: [1, 3]})
    assert torch.equal(compact(value, rows), value[:, [0, 2]][..., [1, 3]])
    nested = parameter_mask((2, 3, 4), {1: [0, 2], 2: [[0, 1], [1, 3]]})
    assert compact(value, nested).tolist() == [[[0, 1], [8, 9]], [[13, 15], [21, 23]]]
    turned = compact(value.transpose(1, 2), nested.transpose(1, 2))
    assert torch.equal(turned, compact(value, nested).transpose(1, 2))
    uneven = nested.clone()
    uneven[:, 0, 2] = True  # group 0 keeps three
    with pytest.raises(AssertionError, match="no grid"):
        compact(value, uneven)


def test_masks_of_parameters() -> None:
    grouped = parameter_mask((6, 4), {0: [0, 1, 4, 5], 1: [[0, 1], [2, 3]]})
    assert grouped.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4, [0, 0, 1, 1], [0, 0, 1, 1]]
    with pytest.raises(AssertionError, match="equally many"):
        parameter_mask((2, 4), {1: [[0], [1, 2]]})
    with pytest.raises(AssertionError, match="ascend"):
        parameter_mask((4,), {0: [2, 1]})
