"""The compiler's check of its own work: the slim model against the masked original, before it is handed out.

Both run in eval mode, in the model's own dtype. Every value of the slim model must also have the shape that the
analysis says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from fxprune.cut import Cut
from fxprune.errors import CaptureError, FxpruneError, RewriteError, VerificationError
from fxprune.evaluating import evaluating
from fxprune.passes.double import double_inputs, in_double
from fxprune.passes.masked import MaskedOriginal, private
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.random_state import kept_random_state
from fxprune.rules.elementwise import TensorAxes

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative error by dtype that passes without a second opinion; integers must agree exactly."""


CERTAIN = 1e-6
"""Largest relative error in double precision that is rounding, however ill-conditioned; a wrong slice shows above it."""


def verify(program: Program, propagation: Propagation, cut: Cut, slim: GraphModule) -> float:
    """Compare the slim model with the masked original.

    Where the error is larger than rounding usually makes it, both are compared once more in double precision, which
    tells an ill-conditioned model from a wrong one.

    Args:
        program: the captured original.
        propagation: axes of its values.
        cut: what is kept.
        slim: the emitted module; its training flags are restored afterwards.

    Returns:
        The largest relative error over all outputs, max |a - b| / max |a|, in the model's own dtype.

    Raises:
        RewriteError: a value of the slim model has another shape than the analysis says, or an operation fails.
        VerificationError: the error is beyond rounding.
    """
    with torch.no_grad(), evaluating(slim), full_precision():
        expected = MaskedOriginal(program, propagation, cut)
        error, suspicious = run_and_compare(expected, _Checked(slim, propagation, cut), program.traced)
        if suspicious:
            expected = _in_double(program, propagation, cut)
            actual = _Checked(in_double(slim), propagation, cut)
            exact, _ = run_and_compare(expected, actual, double_inputs(program.traced))
            if not exact <= CERTAIN:
                raise VerificationError(_explain(exact))
    return error


def run_and_compare(expected: Interpreter, actual: Interpreter, inputs: Sequence[Any]) -> tuple[float, bool]:
    """Largest relative error, and whether it is beyond the tolerance anywhere."""
    with kept_random_state():
        try:
            a = tree_leaves(expected.run(*_copies(inputs), enable_io_processing=False))
        except FxpruneError:
            raise
        except Exception as error:
            what = ", ".join(f"{each.dtype} {list(each.shape)}" for each in inputs if isinstance(each, Tensor))
            msg = f"the model itself fails on these example inputs ({what}): {type(error).__name__}: {error}"
            raise CaptureError(msg) from error
    with kept_random_state():
        b = tree_leaves(actual.run(*_copies(inputs), enable_io_processing=False))
    return compare(a, b)


def _copies(inputs: Sequence[Any]) -> list[Any]:
    """Inputs that a run may write to."""
    return [each.clone() if isinstance(each, Tensor) else each for each in inputs]


def compare(expected: Sequence[Any], actual: Sequence[Any]) -> tuple[float, bool]:
    """Largest relative error over pairs of outputs, and whether it is beyond the tolerance of its dtype anywhere.

    Raises:
        VerificationError: an output's shape differs.
    """
    worst, beyond = 0.0, False
    for index, (a, b) in enumerate(zip(expected, actual, strict=True)):
        if not isinstance(a, Tensor):
            continue
        if a.shape != b.shape:
            msg = f"output {index} of the slim model has shape {tuple(b.shape)}, the original's is {tuple(a.shape)}"
            raise VerificationError(msg)
        error = relative_error(a, b)
        beyond |= not error <= TOLERANCE.get(a.dtype, 0.0)
        worst = max(worst, error)
    return worst, beyond


def _explain(error: float) -> str:
    return (
        f"the slim model differs from the original with the cut parts silenced: relative error {error:.1e} in double "
        "precision. It is not handed out. This is a bug in fxprune or in a rule; please report it, and use `ignore` for the "
        "part of the model that it comes from"
    )


def _in_double(program: Program, propagation: Propagation, cut: Cut) -> MaskedOriginal:
    """The masked original in double precision: the same graph, node by node."""
    doubled = in_double(program.graph_module)
    pairs = zip(program.graph_module.graph.nodes, doubled.graph.nodes, strict=True)
    values = {copy: propagation.values[node] for node, copy in pairs if node in propagation.values}
    return MaskedOriginal(replace(program, graph_module=doubled), replace(propagation, values=values), cut)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TensorFloat-32 on GPUs while comparing."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Max |a - b| / max |a|; elements that are not finite must agree exactly."""
    expected, actual = expected.detach(), actual.detach()
    if expected.numel() == 0:
        return 0.0
    a, b = (
        each.double() if not each.is_complex() else torch.view_as_real(each).double() for each in (expected, actual)
    )
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs())
    scale = torch.where(a.isfinite(), a.abs(), 0.0).max().clamp_min(torch.finfo(torch.float32).tiny)
    error = float((difference / scale).max())
    return float("inf") if error != error else error


class _Checked(Interpreter):
    """Runs the slim graph and compares every value's shape with the analysis."""

    def __init__(self, module: GraphModule, propagation: Propagation, cut: Cut) -> None:
        super().__init__(module)
        self.propagation = propagation
        self.cut = cut

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the slim model; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target))

    def run_node(self, n: Node) -> Any:
        origin = n.meta.get("origin")
        try:
            value = super().run_node(n)
        except Exception as error:
            msg = f"the slim model fails: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
            raise RewriteError(msg, origin or n) from error
        axes = self.propagation.values.get(origin) if origin is not None else None
        if isinstance(axes, TensorAxes) and isinstance(value, Tensor):
            expected = tuple(self.cut.count(axis) for axis in axes)
            if tuple(value.shape) != expected:
                msg = f"the slim model computes shape {tuple(value.shape)} where {expected} is kept"
                raise RewriteError(msg, origin)
        return value
