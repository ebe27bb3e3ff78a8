"""Matrix products: linear layers, matmul in its forms, einsum.

    y[..., o] = sum_i x[..., i] w[o, i]

The contracted pair holds the same indices; so do batch dimensions, up to broadcasting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.axes import Axes, Axis, Variable, head
from fxprune.rules.registry import Role, rule
from fxprune.rules.routing import counted_by
from fxprune.rules.trace import Trace

aten = torch.ops.aten


@rule(aten.linear.default, role=Role.CONTRACTION)
def linear(trace: Trace, input: Axes, weight: Axes, bias: Axes | None = None) -> Axes:
    """y[..., o] = sum_i x[..., i] w[o, i] + b[o]."""
    trace.unify(input[-1], weight[-1])
    trace.mix(input[-1])
    if len(weight) == 1:
        return input[:-1]
    trace.label(weight[0], "features")
    if bias is not None:
        trace.unify(weight[0], bias[0])
    return (*input[:-1], weight[0])


@rule(aten.bilinear.default, role=Role.CONTRACTION)
def bilinear(trace: Trace, input1: Axes, input2: Axes, weight: Axes, bias: Axes | None = None) -> Axes:
    """y[..., o] = sum_ij x1[..., i] w[o, i, j] x2[..., j] + b[o]."""
    trace.unify(input1[-1], weight[1])
    trace.unify(input2[-1], weight[2])
    trace.mix(input1[-1], input2[-1])
    if bias is not None:
        trace.unify(weight[0], bias[0])
    return (*trace.broadcast([input1[:-1], input2[:-1]]), weight[0])


@rule(
    aten.matmul.default,
    aten.mm.default,
    aten.bmm.default,
    aten.mv.default,
    aten.dot.default,
    aten.vdot.default,
    aten.linalg_matmul.default,
    role=Role.CONTRACTION,
)
def matmul(trace: Trace, left: Axes, right: Axes) -> Axes:
    """y[b, m, n] = sum_k a[b, m, k] c[b, k, n], with batch dimensions broadcast and vectors as in `torch.matmul`."""
    trace.unify(left[-1], right[-2] if len(right) > 1 else right[0])
    trace.mix(left[-1])
    batch = trace.broadcast([left[:-2], right[:-2]])
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    return (*batch, *rows, *columns)


@rule(aten.addmm.default, aten.addmv.default, aten.baddbmm.default, role=Role.CONTRACTION)
def add_product(trace: Trace, bias: Axes, left: Axes, right: Axes, **_: Any) -> Axes:
    """Y = bias + a @ b."""
    return trace.broadcast([matmul(trace, left, right), bias])


@rule(
    "transformers.grouped_mm_fallback.default",
    aten._grouped_mm.default,
    role=Role.CONTRACTION,
)
def grouped_product(trace: Trace, rows: Axes, weight: Axes, offs: Axes | None = None, *_: Any, **__: Any) -> Axes:
    """y[t, n] = sum_k x[t, k] w[e(t), k, n], where offsets say which expert e holds row t.

    Experts are pinned unless the offsets are counts of what a router chose.
    """
    if len(rows) != 2 or len(weight) != 3:
        trace.pin_all((*rows, *weight), "product in groups")
        return trace.fixed_axes(trace.shape, "product in groups")
    assert trace.node is not None
    counts = counted_by(trace.node)
    if offs is None or len(offs) != 1 or _is_pinned(offs[0]) or counts not in trace.numbered:
        trace.pin_all((weight[0], *(offs or ())), "addressed by the router")
    else:
        trace.unify(weight[0], offs[0])
    trace.unify(rows[1], weight[1])
    trace.mix(rows[1])
    return (rows[0], weight[2])


def _is_pinned(axis: Axis) -> bool:
    axis = head(axis)
    return isinstance(axis, Variable) and axis.pin is not None


@rule(aten.outer.default, aten.ger.default)
def outer(_: Trace, left: Axes, right: Axes) -> Axes:
    """y[i, j] = a[i] c[j]."""
    return (left[0], right[0])


@rule(aten.tensordot.default, role=Role.CONTRACTION)
def tensordot(trace: Trace, left: Axes, right: Axes, dims_self: Sequence[int], dims_other: Sequence[int]) -> Axes:
    """y[free a, free c] = sum over the paired dimensions of a c."""
    pairs = [(own % len(left), other % len(right)) for own, other in zip(dims_self, dims_other, strict=True)]
    for own, other in pairs:
        trace.unify(left[own], right[other])
        trace.mix(left[own])
    free = [axis for at, axis in enumerate(left) if at not in {own for own, _ in pairs}]
    others = [axis for at, axis in enumerate(right) if at not in {other for _, other in pairs}]
    return (*free, *others)


@rule(aten.einsum.default, role=Role.CONTRACTION)
def einsum(trace: Trace, equation: str, operands: Sequence[Axes], **_: Any) -> Axes:
    """y[out] = sum over the letters that the result lacks; a letter is one axis wherever it stands."""
    sources, target = _parse(equation.replace(" ", ""), [len(axes) for axes in operands])
    known: dict[str, Axis] = {}
    for letters, axes in zip(sources, operands, strict=True):
        for letter, axis in zip(letters, axes, strict=True):
            other = known.get(letter)
            if other is None or other.size == 1:
                known[letter] = axis
            elif axis.size != 1:
                trace.unify(other, axis)
    trace.mix(*(axis for letter, axis in known.items() if letter not in target))
    return tuple(known[letter] for letter in target)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Letters of each operand and of the result; an ellipsis becomes as many numbered letters as it covers."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    covered = max(rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True))
    sources = [
        _letters(term, rank - len(term.replace("...", "")), covered) for term, rank in zip(terms, ranks, strict=True)
    ]
    if arrow:
        return sources, _letters(right, covered, covered)
    letters = left.replace(",", "").replace("...", "")
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return sources, [*_letters("..." if "..." in left else "", covered, covered), *once]


def _letters(term: str, here: int, covered: int) -> list[str]:
    before, ellipsis, after = term.partition("...")
    middle = [f".{index}" for index in range(covered - here, covered)] if ellipsis else []
    return [*before, *middle, *after]
