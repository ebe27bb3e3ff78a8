"""Products that sum along an axis: dead elements contribute nothing, on either side.

An output element is alive if some product behind it is of two alive elements; the same operation on the masks, as zeros
and ones, counts those products. A bias alone does not keep an output alive, a dead bias makes it dead.
"""

from __future__ import annotations

import math

import torch

from tests.reference.calls import Call, rule
from tests.reference.values import Masked, silence, uniform


@rule("matmul", "mm", "bmm", "mv", "dot", "einsum", "tensordot", "linear", "inner", "vdot")
@rule("chain_matmul", "linalg_multi_dot")
@rule("transformers::grouped_mm_fallback", "_grouped_mm")
def product(call: Call) -> Masked:
    """Any product without a bias, or with one along the last axis."""
    bias = call.get("bias")
    counts = call.counted(bias=None) if "bias" in call.arguments else call.counted()
    alive = counts > 0
    return Masked(call.silenced(), alive if bias is None else alive & bias.alive)


@rule("addmm", "baddbmm", "addbmm", "addmv")
def added_product(call: Call) -> Masked:
    """The scaled sum of ``self`` and a product."""
    counts = call.counted(beta=0, alpha=1)
    return Masked(call.silenced(), (counts > 0) & call["self"].alive)


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def convolution(call: Call) -> Masked:
    """Channels contract within their group; kernels slide along axes on which nothing may be cut.

    Whether an output is alive is asked of the channels only: at a place that no kernel tap reaches, the bias stands.
    """
    weight, bias, groups = call["weight"].alive, call["bias"], call["groups"]
    spatial = range(-(weight.dim() - 2), 0)
    channels = uniform(call["input"].alive, spatial, "a convolution's spatial axes").flatten(-len(spatial) - 1)
    taps = uniform(weight, spatial, "a convolution's kernel").flatten(1).double()
    transposed = "transpose" in call.name or call.get("transposed")
    grouped = channels.unflatten(-1, (groups, -1)).double()
    by_group = taps.unflatten(0, (groups, -1))
    counts = torch.einsum("...gi,gio->...go" if transposed else "...gi,goi->...go", grouped, by_group)
    alive = counts.flatten(-2) > 0
    if bias is not None:
        alive = alive & bias.alive
    value = call.silenced()
    return Masked(value, alive[(..., *[None] * len(spatial))].expand(value.shape).clone())


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Masked:
    """softmax(q kᵀ · scale + mask) v: two products, with the scale of the original head dimension."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(query.value.shape[-1])
    repeats = query.value.shape[-3] // key.value.shape[-3] if call.get("enable_gqa") else 1
    keys, values = (each.alive.double() for each in (key, value))
    if repeats > 1:
        keys, values = (each.repeat_interleave(repeats, dim=-3) for each in (keys, values))
    scores = query.alive.double() @ keys.transpose(-2, -1) > 0
    if mask is not None:
        scores = scores & mask.alive
    uniform(scores, (-1,), "softmax")
    out = call.run(lambda each: each.value if each is mask else silence(each), scale=scale)
    return Masked(out, scores.double() @ values > 0)


@rule("cosine_similarity")
def cosine_similarity(call: Call) -> Masked:
    """Two vectors' product over their lengths."""
    alive = call["x1"].alive & call["x2"].alive
    first, second = (silence(Masked(call[name].value.expand(alive.shape), alive)) for name in ("x1", "x2"))
    return Masked(call.run(x1=first, x2=second), alive.any(dim=call["dim"]))


@rule("bilinear")
def bilinear(call: Call) -> Masked:
    """Two vectors through a tensor, with a bias along the last axis."""
    alive = call.counted(bias=None) > 0
    return Masked(call.silenced(), alive if call["bias"] is None else alive & call["bias"].alive)
