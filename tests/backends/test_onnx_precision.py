"""Half precision written into ONNX files: which operation computes in what, and that the result is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from fxprune.backends.onnx import OnnxBackend
from fxprune.backends.onnx_precision import convert_file, convert_model
from fxprune.backends.parity import relative_error
from fxprune.backends.session import open_session
from fxprune.errors import BackendError
from tests.backends.nets import Convnet

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


class Block(nn.Module):
    """A residual block with both kinds of normalisation, written out and whole, and attention with a mask of -3.4e38."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = nn.LayerNorm(16), nn.Parameter(torch.rand(16) + 0.5)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
        attended = (query @ key.transpose(1, 2) / 4 + mask).softmax(-1) @ value
        x = x + self.out(attended)
        normalised: Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        return normalised


def inferred_types(path: Path) -> tuple[Any, dict[str, int]]:
    """The graph, and the type of each of its values; ONNX refuses types that do not fit on the way."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    graph = model.graph
    types = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.output, *graph.value_info)}
    return graph, types | {item.name: item.data_type for item in graph.initializer}


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("precision") / "block.onnx"
    inputs = (torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True, True, False, False, False]]))
    OnnxBackend().lower(Block().eval(), path, example_inputs=(inputs, {}))
    return path, inputs


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_each_operation_gets_its_type(
    precision: str, block: tuple[Path, tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    convert_file(block[0], tmp_path / "half.onnx", precision)
    graph, types = inferred_types(tmp_path / "half.onnx")
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            assert {types[name] for name in node.input} == {HALF[precision]}
        if node.op_type in ("LayerNormalization", "Softmax", "Pow", "ReduceMean", "Sqrt", "Reciprocal"):
            assert types[node.input[0]] == types[node.output[0]] == TensorProto.FLOAT
    assert {node.op_type for node in graph.node} >= {"Softmax", "LayerNormalization", "ReduceMean"}
    assert [types[item.name] for item in graph.output] == [TensorProto.FLOAT]
    weights = {item.name: item.data_type for item in graph.initializer}
    assert weights["norm.weight"] == TensorProto.FLOAT


def test_half_precision_is_right_and_stays_finite(block: tuple[Path, tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    path, (x, seen) = block
    convert_file(path, tmp_path / "half.onnx", "fp16")
    for scale in (1.0, 300.0):  # whose squares are beyond float16
        (expected,), (actual,) = (open_session(file).run(x * scale, seen) for file in (path, tmp_path / "half.onnx"))
        assert 0 < relative_error(expected, actual) < 5e-3


def test_weights_halve_and_keep_their_names(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    OnnxBackend().lower(module, tmp_path / "single.onnx", example_inputs=((torch.randn(2, 64),), {}))
    convert_file(tmp_path / "single.onnx", tmp_path / "half.onnx", "fp16")
    kept, halved = (
        {item.name for item in onnx.load(tmp_path / name).graph.initializer} for name in ("single.onnx", "half.onnx")
    )
    assert kept == halved
    sizes = [(tmp_path / name).stat().st_size for name in ("single.onnx", "half.onnx")]
    assert sizes[1] < 0.55 * sizes[0]


def test_constants_saturate_and_infinities_stay() -> None:
    values = [-3.4e38, 3.4e38, -float("inf"), 1.5]
    constant = helper.make_tensor("c", TensorProto.FLOAT, [4], values)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"], name="product"),
        helper.make_node("Add", ["z", "c"], ["y"], name="add"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [constant, weight])
    proto = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    model = onnx_ir.from_proto(proto)
    convert_model(model, "fp16")
    found = model.graph.initializers["c"].const_value
    assert found is not None
    assert found.numpy().tolist() == [-65504.0, 65504.0, -float("inf"), 1.5]


def test_control_flow_is_refused() -> None:
    scalar = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value_float=1.0)], "branch", [], [scalar])
    choose = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    proto = helper.make_model(helper.make_graph([choose], "g", [condition], [scalar]))
    with pytest.raises(BackendError, match=r"control flow \(If 'choose'\).* precision='fp32'"):
        convert_model(onnx_ir.from_proto(proto), "bf16")


def test_a_convnet_in_float16(tmp_path: Path) -> None:
    module = Convnet().eval()
    images = torch.randn(2, 3, 8, 8)
    OnnxBackend().lower(module, tmp_path / "single.onnx", example_inputs=((images,), {}))
    convert_file(tmp_path / "single.onnx", tmp_path / "half.onnx", "fp16")
    (actual,) = open_session(tmp_path / "half.onnx").run(images)
    assert actual.dtype == torch.float32
    assert relative_error(module(images), actual) < 5e-3
