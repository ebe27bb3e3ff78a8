"""Scaled dot-product attention, whole.

    y[b, h, s, v] = sum_t softmax_t(scale * sum_d q[b, h, s, d] k[b, h, t, d]) x[b, h, t, v]

Heads go together in q, k, x and y; d in q and k; v in x and y; t is pinned by the softmax. With grouped queries the
query heads are a product (key/value group) x (queries of the group). A scale that was not given is 1 / sqrt(d) of the
original d, and stays that.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fxprune.axes import Axes, Product
from fxprune.rules.registry import Role, rule
from fxprune.rules.resizing import Arguments, Resizing
from fxprune.rules.trace import Trace

aten = torch.ops.aten


def _resize_scale(resizing: Resizing) -> Arguments:
    """Keep the original's scale where it would follow the number of head dimensions."""
    width = resizing.operand(0)[-1]
    if not resizing.changed(width) or resizing.kwargs.get("scale") is not None:
        return resizing.args, resizing.kwargs
    return resizing.args, {**resizing.kwargs, "scale": 1.0 / math.sqrt(width.size)}


@rule(aten.scaled_dot_product_attention.default, role=Role.CONTRACTION, resize=_resize_scale)
def scaled_dot_product_attention(
    trace: Trace,
    query: Axes,
    key: Axes,
    value: Axes,
    attn_mask: Axes | None = None,
    *_: Any,
    enable_gqa: bool = False,
    **__: Any,
) -> Axes:
    """Y = softmax(scale * q k^T + mask) x, per head."""
    trace.unify(query[-1], key[-1])
    trace.unify(key[-2], value[-2])
    trace.pin(key[-2], "softmax over it")
    trace.mix(query[-1])
    trace.label(query[-1], "query/key dimensions")
    trace.label(value[-1], "value dimensions")
    batch = _grouped_batch(trace, query, key, value) if enable_gqa else _batch(trace, query, key, value)
    if attn_mask is not None:
        batch = trace.broadcast([(*batch, query[-2], key[-2]), attn_mask])[:-2]
    return (*batch, query[-2], value[-1])


def _batch(trace: Trace, query: Axes, key: Axes, value: Axes) -> Axes:
    batch = trace.broadcast([query[:-2], key[:-2], value[:-2]])
    if len(batch) > 1:
        trace.label(batch[-1], "heads")
    return batch


def _grouped_batch(trace: Trace, query: Axes, key: Axes, value: Axes) -> Axes:
    trace.unify(key[-3], value[-3])
    groups = key[-3].size
    queries = trace.fresh(query[-3].size // groups)
    trace.unify(query[-3], Product((key[-3], queries)))
    trace.label(key[-3], "key/value groups")
    trace.label(queries, "query heads per group")
    return (*trace.broadcast([query[:-3], key[:-3], value[:-3]]), query[-3])
