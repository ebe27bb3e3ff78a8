from __future__ import annotations

import pytest
import torch

from fxprune.cli.inputs import parse_inputs
from fxprune.errors import InputError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_no_input_is_left_to_be_inferred() -> None:
    assert parse_inputs([], generator()) is None


def test_positional_inputs_have_shape_and_dtype() -> None:
    inputs = parse_inputs(["1x3x8x8", "2x5:int64", "4:float16", "2x2:bool"], generator())
    assert isinstance(inputs, tuple)
    assert [tuple(tensor.shape) for tensor in inputs] == [(1, 3, 8, 8), (2, 5), (4,), (2, 2)]
    assert [tensor.dtype for tensor in inputs] == [torch.float32, torch.int64, torch.float16, torch.bool]


def test_named_inputs_become_keywords() -> None:
    inputs = parse_inputs(["input_ids=1x8:int64", "mask=1x8:bool"], generator())
    assert isinstance(inputs, dict)
    assert set(inputs) == {"input_ids", "mask"}


def test_values_follow_the_seed() -> None:
    first, second = (parse_inputs(["3x3"], generator()) for _ in range(2))
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("text", ["", "3x", "1,3,8", "ax3", "1x3:", "1x3:float33", "1x3:Tensor"])
def test_unusable_input_is_explained(text: str) -> None:
    with pytest.raises(InputError, match="--input"):
        parse_inputs([text], generator())


@pytest.mark.parametrize("texts", [["1x3", "mask=1x3"], ["mask=1x3", "mask=1x3"]])
def test_names_are_all_or_none_and_differ(texts: list[str]) -> None:
    with pytest.raises(InputError, match="none or all"):
        parse_inputs(texts, generator())
