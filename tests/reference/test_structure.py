"""The interpreter against slim results written by hand: what splits, joins, factors and ties axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.reference import alive_shapes, compact, masked_outputs, masked_values
from tests.reference.helpers import captured, check, randn, randomised


class Net(nn.Module):
    """Convolutions a, b and c, whose forward is given."""

    def __init__(self, sizes: list[tuple[int, int]], forward: Any) -> None:
        super().__init__()
        for name, (into, out) in zip("abc", sizes, strict=False):
            self.add_module(name, nn.Conv2d(into, out, 1))
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def rows(*names: str, kept: list[int]) -> dict[str, dict[int, list[int]]]:
    """Convolutions without some of their outputs."""
    return {f"{name}.{part}": {0: kept} for name in names for part in ("weight", "bias")}


def test_concatenation() -> None:
    module = randomised(Net([(3, 4), (3, 5), (9, 2)], lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], dim=1))))
    x, first, second = randn(2, 3, 2, 2), [0, 3], [1, 2, 4]
    both = [0, 3, 5, 6, 8]

    def slim() -> Any:
        y = F.conv2d(x, module.a.weight[first], module.a.bias[first])
        z = F.conv2d(x, module.b.weight[second], module.b.bias[second])
        return F.conv2d(torch.cat([y, z], 1), module.c.weight[:, both], module.c.bias)

    check(module, rows("a", kept=first) | rows("b", kept=second) | {"c.weight": {1: both}}, (x,), slim)


def test_residual() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        z = m.b(y)
        z += y
        return m.c(F.relu(z))

    module, x, kept = randomised(Net([(3, 5), (5, 5), (5, 2)], forward)), randn(2, 3, 2, 2), [0, 2, 3]

    def slim() -> Any:
        y = F.conv2d(x, module.a.weight[kept], module.a.bias[kept])
        z = y + F.conv2d(y, module.b.weight[kept][:, kept], module.b.bias[kept])
        return F.conv2d(F.relu(z), module.c.weight[:, kept], module.c.bias)

    slices = rows("a", "b", kept=kept) | {"b.weight": {0: kept, 1: kept}, "c.weight": {1: kept}}
    check(module, slices, (x,), slim)


def test_shortcut_widened_by_zero_channels() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.b(F.relu(m.a(x) + F.pad(x, (0, 0, 0, 0, 1, 2))))

    module, x, kept = randomised(Net([(3, 6), (6, 2)], forward)), randn(2, 3, 2, 2), [1, 2, 3, 5]

    def slim() -> Any:
        y = F.conv2d(x, module.a.weight[kept], module.a.bias[kept]) + F.pad(x, (0, 0, 0, 0, 0, 1))
        return F.conv2d(F.relu(y), module.b.weight[:, kept], module.b.bias)

    check(module, rows("a", kept=kept) | {"b.weight": {1: kept}}, (x,), slim)


def test_chunks_of_one_projection() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        value, gate = m.a(x).chunk(2, dim=1)
        return m.b(value * torch.sigmoid(gate))

    module, x, kept = randomised(Net([(3, 8), (4, 2)], forward)), randn(2, 3, 2, 2), [1, 2]
    both = [1, 2, 5, 6]

    def slim() -> Any:
        value, gate = F.conv2d(x, module.a.weight[both], module.a.bias[both]).chunk(2, dim=1)
        return F.conv2d(value * torch.sigmoid(gate), module.b.weight[:, kept], module.b.bias)

    check(module, rows("a", kept=both) | {"b.weight": {1: kept}}, (x,), slim)


def test_channel_shuffle() -> None:
    """Channels (2 groups of 3) without index 1 of each group; shuffled, that is both of the second pair."""

    def forward(m: Any, x: Tensor) -> Any:
        return m.b(m.a(x).view(2, 2, 3, 2, 2).transpose(1, 2).reshape(2, 6, 2, 2))

    module, x, kept = randomised(Net([(3, 6), (6, 2)], forward)), randn(2, 3, 2, 2), [0, 2, 3, 5]
    shuffled = [0, 1, 4, 5]

    def slim() -> Any:
        y = F.conv2d(x, module.a.weight[kept], module.a.bias[kept])
        y = y.view(2, 2, 2, 2, 2).transpose(1, 2).reshape(2, 4, 2, 2)
        return F.conv2d(y, module.b.weight[:, shuffled], module.b.bias)

    check(module, rows("a", kept=kept) | {"b.weight": {1: shuffled}}, (x,), slim)


def test_tied_weights_are_cut_under_any_of_their_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6, bias=False)
            self.b = nn.Linear(4, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.a(x)) @ self.b.weight

    module, x, kept = randomised(Tied()), randn(2, 4), [1, 2, 5]

    def slim() -> Any:
        return torch.relu(F.linear(x, module.a.weight[kept])) @ module.a.weight[kept]

    check(module, {"a.weight": {0: kept}}, (x,), slim)
    graph = captured(module, x)
    names = [name for name in ("a.weight", "b.weight") if name in dict(graph.named_parameters(remove_duplicate=False))]
    for name in names:
        torch.testing.assert_close(masked_outputs(graph, {name: {0: kept}}, (x,))[0], slim())


def test_writes_into_views_reach_the_whole_tensor() -> None:
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            joined = torch.zeros(x.shape[0], 8, dtype=x.dtype)
            joined[:, :4] = self.a(x)
            joined[:, 4:].copy_(self.b(x))
            joined.relu_()
            return self.c(joined)

    module, x, first, second = randomised(Writer()), randn(2, 3), [0, 2], [1, 2, 3]
    both = [0, 2, 5, 6, 7]

    def slim() -> Any:
        y = F.linear(x, module.a.weight[first], module.a.bias[first])
        z = F.linear(x, module.b.weight[second], module.b.bias[second])
        return F.linear(F.relu(torch.cat([y, z], 1)), module.c.weight[:, both], module.c.bias)

    check(module, rows("a", kept=first) | rows("b", kept=second) | {"c.weight": {1: both}}, (x,), slim)


def test_einsum_with_a_choice_of_dimensions_in_each_head() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Parameter(torch.zeros(2, 5, 4)), nn.Parameter(torch.zeros(2, 4, 3))

        def forward(self, x: Tensor) -> Any:
            return torch.einsum("bnhd,hdf->bnf", torch.tanh(torch.einsum("bnf,hfd->bnhd", x, self.into)), self.out)

    module, x, kept = randomised(Heads()), randn(2, 3, 5), [[0, 2], [1, 3]]

    def slim() -> Any:
        into = torch.stack([module.into[0][:, kept[0]], module.into[1][:, kept[1]]])
        out = torch.stack([module.out[0, kept[0]], module.out[1, kept[1]]])
        return torch.einsum("bnhd,hdf->bnf", torch.tanh(torch.einsum("bnf,hfd->bnhd", x, into)), out)

    check(module, {"into": {2: kept}, "out": {1: kept}}, (x,), slim)


def test_intermediate_values_can_be_compared() -> None:
    module = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    x, kept = randn(2, 3), [0, 3]
    slices = {"0.weight": {0: kept}, "0.bias": {0: kept}, "2.weight": {1: kept}}
    graph = captured(module, x)
    hidden = masked_values(graph, slices, (x,))["tanh"]
    expected = torch.tanh(F.linear(x, module[0].weight[kept], module[0].bias[kept]))
    torch.testing.assert_close(compact(hidden.value, hidden.alive), expected)
    assert alive_shapes(graph, slices, (x,))["tanh"] == (2, 2)


def test_inputs_by_keyword_and_in_trees() -> None:
    class Takes(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor], *, scale: Tensor, shift: Tensor) -> dict[str, Any]:
            return {"sum": pair[0] + pair[1], "rest": [pair[0] * scale - shift]}

    pair, scale, shift = (randn(2, 3), randn(2, 3, seed=2)), randn(3, seed=3), randn(3, seed=4)
    graph = torch.export.export(Takes(), (pair,), {"scale": scale, "shift": shift}, strict=False).module()
    assert isinstance(graph, torch.fx.GraphModule)
    found = masked_outputs(graph, {}, (pair,), {"shift": shift, "scale": scale})
    assert torch.equal(found[0], pair[0] + pair[1])
    assert torch.equal(found[1], pair[0] * scale - shift)
