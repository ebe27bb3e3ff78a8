"""`nn.MultiheadAttention` after a cut.

PyTorch's own takes the inner width for the width of its input, and the scale from what is left of a head. Where a cut
breaks either, the module's class becomes `MultiheadAttention`: the same parameters under the same names, an instance
of `nn.MultiheadAttention` still, whose forward takes the inner widths from its weights:

    y = concat_h(softmax(scale q_h k_h^T + mask) v_h) W_out      q = x W_q, k = z W_k, v = z W_v
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from fxprune.plan import Indices


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads need not make up the width of its input.

    Attributes:
        scale: of the scores, that of the original.
        query_width: inner width of queries and keys.
    """

    scale: float
    query_width: int

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, arguments and results included."""
        batched = query.dim() == 3
        inputs = [each if batched else each.unsqueeze(0 if self.batch_first else 1) for each in (query, key, value)]
        if not self.batch_first:
            inputs = [each.transpose(0, 1) for each in inputs]
        q, k, v = (self._heads(each) for each in self._project(*inputs))
        k, v = self._lengthen(k, self.bias_k), self._lengthen(v, self.bias_v)
        mask = self._mask(
            q, k, key_padding_mask if batched or key_padding_mask is None else key_padding_mask[None], attn_mask
        )
        scores = q @ k.transpose(-2, -1) * self.scale
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        output = output if self.batch_first else output.transpose(0, 1)
        shown = (weights.mean(dim=1) if average_attn_weights else weights) if need_weights else None
        if batched:
            return output, shown
        return output.squeeze(0 if self.batch_first else 1), None if shown is None else shown.squeeze(0)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths = [self.query_width, self.query_width, self.out_proj.in_features]
        if self._qkv_same_embed_dim_of_weights:
            weights = list(self.in_proj_weight.split(widths))
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None] * 3 if self.in_proj_bias is None else list(self.in_proj_bias.split(widths))
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    @property
    def _qkv_same_embed_dim_of_weights(self) -> bool:
        return self.in_proj_weight is not None

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return split.transpose(1, 2)

    def _lengthen(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Append the learned key or value, and one of zeros, as the settings say."""
        if bias is not None:
            x = torch.cat([x, self._heads(bias.expand(x.shape[0], -1, -1))], dim=2)
        return F.pad(x, (0, 0, 0, 1)) if self.add_zero_attn else x

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores."""
        extra = k.shape[2]
        found: Tensor | None = None
        if mask is not None:
            found = _additive(mask, q.dtype)
            found = found.unflatten(0, (q.shape[0], -1)) if found.dim() == 3 else found
            found = F.pad(found, (0, extra - found.shape[-1]))
        if padding is not None:
            own = _additive(padding, q.dtype)[:, None, None]
            own = F.pad(own, (0, extra - own.shape[-1]))
            found = own if found is None else found + own
        return found


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def adapt_attention(original: nn.Module, slim: nn.Module, slices: Mapping[str, Mapping[int, Indices]]) -> set[str]:
    """Bring every `nn.MultiheadAttention` of a slim copy up to date, in place.

    Returns:
        Paths of those that were cut.
    """
    adapted = set[str]()
    for path, module in original.named_modules():
        if not isinstance(module, nn.MultiheadAttention) or type(module).forward is not nn.MultiheadAttention.forward:
            continue
        made = slim.get_submodule(path)
        assert isinstance(made, nn.MultiheadAttention)
        own = {name.rpartition(".")[2]: each for name, each in slices.items() if name.rpartition(".")[0] == path}
        if own or made.out_proj.weight.shape != module.out_proj.weight.shape:
            _adapt(module, made, own)
            adapted.add(path)
    return adapted


def _adapt(
    original: nn.MultiheadAttention, made: nn.MultiheadAttention, own: Mapping[str, Mapping[int, Indices]]
) -> None:
    rows = own.get("in_proj_weight", own.get("q_proj_weight", {})).get(0)
    kept = range(original.embed_dim) if rows is None else [int(row) for row in rows if row < original.embed_dim]  # type: ignore[arg-type]
    heads = len({row // original.head_dim for row in kept})
    embed, inner = made.out_proj.weight.shape
    for projection, name in (("k_proj_weight", "kdim"), ("v_proj_weight", "vdim")):
        weight = getattr(made, projection)
        setattr(made, name, embed if weight is None else weight.shape[1])
    made.embed_dim, made.num_heads, made.head_dim = embed, heads, inner // heads
    if len(kept) == inner == embed and made.head_dim == original.head_dim:
        return
    made.__class__ = MultiheadAttention
    assert isinstance(made, MultiheadAttention)
    made.scale, made.query_width = 1.0 / math.sqrt(original.head_dim), len(kept)
    # The fused inference kernel of nn.TransformerEncoderLayer, which knows one width only, keeps off such a module.
    made._qkv_same_embed_dim = False
