"""The relative error and its special cases."""

from __future__ import annotations

import pytest
import torch

from fxprune.backends import compare_outputs, relative_error
from fxprune.errors import VerificationError

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("reference", "actual", "error"),
    [
        ([1.0, -4.0], [1.0, -3.0], 0.25),
        ([0.0, 0.0], [0.0, 0.5], 0.5),
        ([1e-9, 2.0], [0.0, 2.0], 5e-10),
        ([NAN, 2.0], [NAN, 1.0], 0.5),
        ([NAN, 2.0], [0.0, 2.0], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([INF, 2.0], [INF, 2.0], 0.0),
        ([INF, 2.0], [-INF, 2.0], INF),
        ([INF, 2.0], [NAN, 2.0], INF),
        ([NAN], [NAN], 0.0),
        ([], [], 0.0),
        ([3, 4], [3, 4], 0.0),
        ([3, 4], [3, 5], INF),
        ([True, False], [True, True], INF),
        ([1 + 2j], [1 + 1j], 0.5),
    ],
)
def test_relative_error(reference: list[float], actual: list[float], error: float) -> None:
    assert relative_error(torch.tensor(reference), torch.tensor(actual)) == pytest.approx(error)


def test_the_message_names_output_and_error() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, 1.0, 0.5])
    with pytest.raises(VerificationError, match=r"output 'b' of it differs .* error 0.5, allowed 0.001"):
        compare_outputs([good, good], [good, bad], names=["a", "b"], where="it")
    with pytest.raises(VerificationError, match="1 of 3 elements differ, where all have to be equal"):
        compare_outputs([good.long()], [bad.long()], names=["a"])
    with pytest.raises(VerificationError, match="1 of 3 elements differ, in NaN or infinity"):
        compare_outputs([good], [torch.tensor([1.0, NAN, 1.0])], names=["a"])


def test_number_shape_and_dtype_have_to_agree() -> None:
    one = torch.ones(1)
    with pytest.raises(VerificationError, match=r"has 1 outputs \(a\), the module 2"):
        compare_outputs([one, one], [one], names=["a"])
    with pytest.raises(VerificationError, match=r"is float32 \[1, 1\]; the module computes float32 \[1\]"):
        compare_outputs([one], [one[None]], names=["a"])
    with pytest.raises(VerificationError, match="is float64"):
        compare_outputs([one], [one.double()], names=["a"])


def test_tolerance_goes_by_dtype_unless_given() -> None:
    reference, actual = torch.ones(2), torch.tensor([1.0, 1.01])
    assert compare_outputs([reference.half()], [actual.half()], names=["a"]) == pytest.approx(0.01, rel=0.05)
    with pytest.raises(VerificationError):
        compare_outputs([reference], [actual], names=["a"])
    assert compare_outputs([reference], [actual], names=["a"], tolerance=0.1) == pytest.approx(0.01, rel=0.05)
    assert compare_outputs([], [], names=[]) == 0.0
