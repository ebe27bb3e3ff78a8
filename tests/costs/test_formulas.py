"""Each formula against torch's counter, one operation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.costs import Monomial, Shape, build_costs, flops, unregister_flops
from fxprune.costs.polynomial import volume
from fxprune.errors import PluginError
from tests.costs.count import counted, original

aten = torch.ops.aten


class Function(nn.Module):
    """A function of the inputs as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (F.linear, [(2, 3, 4), (5, 4), (5,)]),
    "linear of a vector": (F.linear, [(4,), (5, 4)]),
    "linear with a vector": (F.linear, [(3, 4), (4,)]),
    "mv": (torch.mv, [(3, 4), (4,)]),
    "dot": (torch.dot, [(4,), (4,)]),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)]),
    "addmm": (torch.addmm, [(3, 5), (3, 4), (4, 5)]),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)]),
    "mm": (torch.mm, [(3, 4), (4, 5)]),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 5)]),
    "matmul 1d 1d": (torch.matmul, [(4,), (4,)]),
    "matmul 2d 1d": (torch.matmul, [(3, 4), (4,)]),
    "matmul 1d 2d": (torch.matmul, [(4,), (4, 3)]),
    "matmul 3d 1d": (torch.matmul, [(2, 3, 4), (4,)]),
    "matmul 1d 3d": (torch.matmul, [(4,), (2, 4, 3)]),
    "matmul 3d 2d": (torch.matmul, [(2, 3, 4), (4, 5)]),
    "matmul 2d 3d": (torch.matmul, [(3, 4), (2, 4, 5)]),
    "matmul broadcast": (torch.matmul, [(2, 1, 3, 4), (6, 4, 5)]),
    "bilinear": (F.bilinear, [(7, 3), (7, 4), (5, 3, 4)]),
    "inner": (torch.inner, [(3, 4), (5, 4)]),
    "inner of vectors": (torch.inner, [(4,), (4,)]),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=2), [(2, 3, 4), (3, 4, 5)]),
    "outer": (torch.outer, [(3,), (4,)]),
    "conv1d without batch": (F.conv1d, [(3, 8), (5, 3, 3)]),
    "conv2d strided": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), [(2, 3, 8, 8), (5, 3, 3, 3)]),
    "conv2d same": (lambda x, w: F.conv2d(x, w, padding="same"), [(2, 3, 8, 8), (5, 3, 3, 3)]),
    "conv2d valid": (lambda x, w: F.conv2d(x, w, padding="valid"), [(2, 3, 8, 8), (5, 3, 3, 3)]),
    "conv2d depthwise": (lambda x, w: F.conv2d(x, w, groups=6), [(2, 6, 8, 8), (6, 1, 3, 3)]),
    "conv3d": (F.conv3d, [(2, 3, 5, 6, 7), (5, 3, 3, 3, 3)]),
    "conv_transpose1d": (F.conv_transpose1d, [(2, 6, 8), (6, 4, 3)]),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, groups=3, stride=2),
        [(2, 6, 8, 8), (6, 2, 3, 3)],
    ),
    "conv_transpose2d without batch": (F.conv_transpose2d, [(6, 8, 8), (6, 2, 3, 3)]),
    "convolution": (
        lambda x, w: torch.convolution(x, w, None, [1], [0], [1], False, [0], 1),
        [(2, 3, 8), (5, 3, 3)],
    ),
    "convolution transposed": (
        lambda x, w: torch.convolution(x, w, None, [2], [0], [1], True, [0], 1),
        [(2, 3, 8), (3, 5, 3)],
    ),
    "attention": (F.scaled_dot_product_attention, [(2, 4, 5, 6), (2, 4, 7, 6), (2, 4, 7, 3)]),
    "attention in 3d": (F.scaled_dot_product_attention, [(4, 5, 6), (4, 7, 6), (4, 7, 3)]),
    "attention broadcast": (F.scaled_dot_product_attention, [(2, 4, 5, 6), (1, 4, 7, 6), (1, 1, 7, 3)]),
    "attention grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [(2, 4, 5, 6), (2, 2, 7, 6), (2, 2, 7, 3)],
    ),
    "element-wise": (lambda a, b: (a * b + a).relu().sum(), [(3, 4), (3, 4)]),
}
EINSUMS: dict[str, list[tuple[int, ...]]] = {
    "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)],
    "bij,bjk": [(2, 3, 4), (2, 4, 5)],
    "i,j->ij": [(3,), (4,)],
    "bi,bi->bi": [(3, 4), (3, 4)],
    "bi,bi->b": [(3, 4), (3, 4)],
    "bij,bk->bik": [(2, 3, 4), (2, 5)],
    "bij,bkl->bil": [(2, 3, 4), (2, 5, 6)],
    "bij->bi": [(2, 3, 4)],
    "ij,jk->ik": [(3, 1), (1, 5)],
    "bij,jk->bik": [(3, 4, 1), (7, 5)],
    "...ij,...jk->...ik": [(2, 6, 3, 4), (6, 4, 5)],
    "ii,ij->j": [(3, 3), (3, 4)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 5)],
    "ij,jk,kl,lm->im": [(2, 3), (3, 4), (4, 5), (5, 6)],
    "bhid,bhjd->bhij": [(2, 3, 4, 5), (2, 3, 6, 5)],
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LSTM": (lambda: nn.LSTM(8, 16, 2, batch_first=True), (2, 5, 8)),
    "GRU": (lambda: nn.GRU(8, 16, 2, batch_first=True, bidirectional=True), (2, 5, 8)),
    "GRU without batch": (lambda: nn.GRU(8, 16, bias=False), (5, 8)),
    "RNN": (lambda: nn.RNN(8, 16, 2, nonlinearity="relu"), (5, 2, 8)),
    "LSTMCell": (lambda: nn.LSTMCell(8, 16), (2, 8)),
    "GRUCell": (lambda: nn.GRUCell(8, 16), (2, 8)),
    "RNNCell": (lambda: nn.RNNCell(8, 16), (2, 8)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 5, 8)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    _compare(Function(function), tuple(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation: str) -> None:
    operands = tuple(torch.randn(shape) for shape in EINSUMS[equation])
    _compare(Function(lambda *inputs: torch.einsum(equation, *inputs)), operands)


def test_einsum_with_a_path() -> None:
    def product(*inputs: Tensor) -> Tensor:
        result: Tensor = aten.einsum.default("ij,jk,kl->il", inputs, path=[1, 2, 0, 1])
        return result

    _compare(Function(product), (torch.randn(2, 3), torch.randn(3, 4), torch.randn(4, 5)))


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    build, shape = LAYERS[name]
    _compare(build().eval(), (torch.randn(shape),))


def _compare(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert original(module, inputs)["flops"] == counted(module, inputs)


@pytest.fixture
def celu_formula() -> Iterator[None]:
    @flops(aten.celu.default)
    def celu(result: Shape, *_: Any) -> Monomial:
        return 3 * volume(result)

    yield
    assert unregister_flops(aten.celu.default) is celu
    assert unregister_flops(aten.celu.default) is None


@pytest.mark.usefixtures("celu_formula")
def test_users_can_add_a_formula() -> None:
    assert build_costs(capture(nn.CELU(), torch.randn(2, 5)), None).original["flops"] == 30


def test_an_overload_packet_is_rejected() -> None:
    with pytest.raises(PluginError, match=r"name it, one of aten\.linear\.default"):
        flops(aten.linear)


def test_a_second_formula_is_rejected() -> None:
    with pytest.raises(PluginError, match=r"fxprune\.costs\.products\.linear"):
        flops(aten.linear.default)(lambda: 0)
