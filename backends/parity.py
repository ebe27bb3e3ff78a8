"""Whether an artifact computes what the PyTorch module computes.

The error of an output `b` against the reference `a` is `max|a - b| / max|a|`, in float64, over the positions where `a`
is finite: relative to the output's scale, because single elements near zero have no meaningful relative error of their
own. The cases:

- `max|a|` is zero (or nothing is finite): the error is `max|a - b|`, absolute;
- NaN and infinities have to be at the same positions, with the same signs: otherwise the error is infinite;
- whole numbers and booleans have to be equal: the error is 0 or infinite;
- complex numbers are compared as pairs of reals, the form ONNX gives them;
- no elements: the error is 0; another shape or type: a mismatch without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from fxprune.errors import VerificationError

TOLERANCES: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
)
"""Largest relative error allowed by default; whole numbers and booleans have to be equal."""


def relative_error(reference: Tensor, actual: Tensor) -> float:
    """Largest relative error of `actual` against `reference`; two tensors of one shape, on any devices.

    Example:
        >>> relative_error(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0]))
        0.25
    """
    reference, actual = _comparable(reference), _comparable(actual)
    assert reference.shape == actual.shape
    if not reference.is_floating_point():
        return 0.0 if torch.equal(reference, actual) else float("inf")
    reference, actual = reference.double(), actual.double()
    finite = reference.isfinite()
    if not torch.equal(reference[~finite].nan_to_num(), actual[~finite].nan_to_num()):
        return float("inf")
    if not torch.equal(finite, actual.isfinite()) or not torch.equal(reference.isnan(), actual.isnan()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(reference[finite].abs().max())
    return float((reference[finite] - actual[finite]).abs().max()) / (scale or 1.0)


def compare_outputs(
    reference: Sequence[Tensor],
    actual: Sequence[Tensor],
    *,
    names: Sequence[str],
    tolerance: float | None = None,
    where: str = "the artifact",
) -> float:
    """Largest relative error over all outputs.

    Args:
        reference: what the PyTorch module computed, flattened.
        actual: what the artifact computed, in the same order.
        names: a name for each of `actual`.
        tolerance: largest error allowed; None takes the default of each output's dtype (`TOLERANCES`).
        where: what is compared, for the message.

    Raises:
        VerificationError: an output differs by more than the tolerance, or in number, shape or type.
    """
    if len(reference) != len(actual):
        raise VerificationError(f"{where} has {len(actual)} outputs ({', '.join(names)}), the module {len(reference)}")
    pairs = list(zip(names, reference, actual, strict=True))
    return max((_checked_error(name, a, b, tolerance, where) for name, a, b in pairs), default=0.0)


def _checked_error(name: str, reference: Tensor, actual: Tensor, tolerance: float | None, where: str) -> float:
    """Error of one output, if it is allowed."""
    reference, actual = _comparable(reference), _comparable(actual)
    if (reference.shape, reference.dtype) != (actual.shape, actual.dtype):
        raise VerificationError(
            f"output {name!r} of {where} is {_kind(actual)}; the module computes {_kind(reference)}"
        )
    allowed = TOLERANCES.get(reference.dtype, 0.0) if tolerance is None else tolerance
    error = relative_error(reference, actual)
    if error <= allowed:
        return error
    raise VerificationError(
        f"output {name!r} of {where} differs from the PyTorch module: {_difference(reference, actual, error)}, "
        f"allowed {allowed:g}. A larger `tolerance=` accepts it, `verify=False` skips the comparison"
    )


def _difference(reference: Tensor, actual: Tensor, error: float) -> str:
    """The error in words."""
    if reference.is_floating_point() and error != float("inf"):
        return f"largest relative error {error:.3g}"
    differ = int((reference != actual).sum() - (reference.isnan() & actual.isnan()).sum())
    what = "in NaN or infinity, among others" if reference.is_floating_point() else "where all have to be equal"
    return f"{differ} of {reference.numel()} elements differ, {what}"


def _comparable(tensor: Tensor) -> Tensor:
    """`tensor` on the CPU, complex numbers as pairs."""
    tensor = tensor.detach().cpu()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _kind(tensor: Tensor) -> str:
    """`float32 [2, 10]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
