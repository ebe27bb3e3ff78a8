"""Mixtures of experts and conditional weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.randomgraphs.images import Residual
from tests.randomgraphs.kinds import Image, Tokens, Vector
from tests.randomgraphs.registry import Draw, Made, block


class DenseExperts(nn.Module):
    """All experts run; a gate weighs them."""

    def __init__(self, features: int, hidden: int, count: int, top: int) -> None:
        super().__init__()
        self.gate = nn.Linear(features, count, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, features)) for _ in range(count)
        )
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        """Σ gate · expert, the gate with all but its largest entries at zero."""
        weights = self.gate(x).softmax(-1)
        values, positions = weights.topk(self.top, dim=-1)
        weights = torch.zeros_like(weights).scatter(-1, positions, values / values.sum(-1, keepdim=True))
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (weights.unsqueeze(-1) * outputs).sum(-2)


@block(Tokens)
def dense_experts(draw: Draw, tokens: Tokens) -> Made:
    """Switch, with as many top experts as chance gives."""
    count = draw.between(2, 3)
    return DenseExperts(tokens.features, draw.width(), count, draw.between(1, count)), tokens


class StackedExperts(nn.Module):
    """Experts as one parameter, applied by bmm or einsum; a softmax gate from the same input."""

    def __init__(self, features: int, hidden: int, count: int, how: str) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.zeros(features, count))
        self.up = nn.Parameter(torch.zeros(count, features, 2 * hidden))
        self.down = nn.Parameter(torch.zeros(count, hidden, features))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        gate = (x @ self.router).softmax(-1)
        if self.how == "bmm":
            flat = x.reshape(1, -1, x.shape[-1]).expand(self.up.shape[0], -1, -1)
            value, key = torch.bmm(flat, self.up).chunk(2, dim=-1)
            out = torch.bmm(value * F.silu(key), self.down)
            mixed = (out * gate.flatten(0, 1).t().unsqueeze(-1)).sum(0)
            return mixed.view_as(x)
        value, key = torch.einsum("...f,efh->...eh", x, self.up).chunk(2, dim=-1)
        out = torch.einsum("...eh,ehf->...ef", value * F.silu(key), self.down)
        return torch.einsum("...ef,...e->...f", out, gate)


@block(Tokens)
def stacked_experts(draw: Draw, tokens: Tokens) -> Made:
    """Batched weights."""
    inner = StackedExperts(tokens.features, draw.width(), draw.between(2, 3), draw.one(("bmm", "einsum")))
    return Residual(inner), tokens


class RoutedExperts(nn.Module):
    """Each token to its best expert: by weights fetched for every token, or by adding into zeros at positions."""

    def __init__(self, features: int, hidden: int, count: int, how: str) -> None:
        super().__init__()
        self.router = nn.Linear(features, count)
        self.up = nn.Parameter(torch.zeros(count, hidden, features))
        self.down = nn.Parameter(torch.zeros(count, features, hidden))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, features] to the same."""
        flat = x.flatten(0, 1)
        weight, chosen = self.router(flat).softmax(-1).max(-1)
        if self.how == "fetch":
            hidden = torch.relu(self.up[chosen] @ flat.unsqueeze(-1))
            fetched: Tensor = (self.down[chosen] @ hidden).squeeze(-1) * weight.unsqueeze(-1)
            return fetched.view_as(x)
        out = torch.zeros_like(flat)
        if self.how == "one hot":
            which = F.one_hot(chosen, self.router.out_features).to(flat.dtype) * weight.unsqueeze(-1)
            for each in range(self.router.out_features):
                hidden = torch.relu(F.linear(flat, self.up[each]))
                out = out + F.linear(hidden, self.down[each]) * which[:, each, None]
            return out.view_as(x)
        order = chosen.argsort(stable=True)
        hidden = torch.relu(torch.einsum("tf,thf->th", flat[order], self.up[chosen[order]]))
        done = torch.einsum("th,tfh->tf", hidden, self.down[chosen[order]]) * weight[order, None]
        return out.index_add(0, order, done).view_as(x)


@block(Tokens)
def routed_experts(draw: Draw, tokens: Tokens) -> Made:
    """Gather, one-hot, or index_add."""
    inner = RoutedExperts(
        tokens.features, draw.between(4, 10), draw.between(2, 3), draw.one(("fetch", "one hot", "index_add"))
    )
    return (Residual(inner) if draw.chance() else inner), tokens


class ConditionalConv(nn.Module):
    """A kernel for each sample, mixed from several by a gate on the mean; the batch becomes groups."""

    def __init__(self, channels: int, out: int, count: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, count)
        self.kernels = nn.Parameter(torch.zeros(count, out, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """CondConv."""
        batch, channels, height, width = x.shape
        gate = self.gate(x.mean((2, 3))).softmax(-1)
        kernels = torch.einsum("be,eoihw->boihw", gate, self.kernels)
        mixed = F.conv2d(x.reshape(1, batch * channels, height, width), kernels.flatten(0, 1), groups=batch)
        return mixed.view(batch, -1, height, width)


@block(Image)
def conditional_conv(draw: Draw, image: Image) -> Made:
    """Weights that are activations."""
    out = draw.width()
    return ConditionalConv(image.channels, out, draw.between(2, 3)), image.wide(out)


class MixedKernels(nn.Module):
    """Two branches weighed by a softmax over branches for each channel (selective kernels)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels) for size in (1, 3)
        )
        self.squeeze = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU())
        self.select = nn.Conv2d(hidden, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Σ over branches."""
        stacked = torch.stack([branch(x) for branch in self.branches], dim=1)
        pooled = self.squeeze(stacked.sum(1).mean((2, 3), keepdim=True))
        weights = self.select(pooled).view(x.shape[0], 2, x.shape[1], 1, 1).softmax(1)
        mixed: Tensor = (stacked * weights).sum(1)
        return mixed


@block(Image)
def mixed_kernels(draw: Draw, image: Image) -> Made:
    """SKNet."""
    return MixedKernels(image.channels, draw.between(3, 8)), image


@block(Vector)
def gated_vectors(draw: Draw, vector: Vector) -> Made:
    """A table of values, weighed by a softmax over its rows."""
    rows, out = draw.between(3, 5), draw.width()
    return Table(vector.features, rows, out), Vector(out)


class Table(nn.Module):
    """Attention to learned values, as memory layers have it."""

    def __init__(self, features: int, rows: int, out: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(rows, features))
        self.values = nn.Parameter(torch.zeros(rows, out))

    def forward(self, x: Tensor) -> Tensor:
        """Softmax(x Kᵀ) V."""
        return torch.addmm(self.values.mean(0), (x @ self.keys.T).softmax(-1), self.values)
