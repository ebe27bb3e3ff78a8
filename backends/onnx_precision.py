"""ONNX models in half precision, types written out: what a strongly typed TensorRT network is built from.

Every float32 value of a graph gets the type that its operation deserves, as automatic mixed precision gives it
(Micikevicius et al., Mixed Precision Training, ICLR 2018), and casts stand only where types meet:

- products (`Conv`, `MatMul`, ...) compute in half precision, which is where time goes;
- normalisations and softmax compute in float32 and their bounded result returns to half precision;
- element-wise and moving operations follow their inputs: float32 if any of them is, else half precision; constants
  have no say and take the type of whoever uses them;
- every other operation, known or not, computes in float32, and its result stays so until a product uses it. So the
  mean of squares of an RMS normalisation written out in single operations never meets float16's largest number.

Inputs and outputs of the graph keep their types, so the result stands in for the float32 model. Finite constants beyond
the range of float16 (the -3.4e38 of attention masks) become its largest finite number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fxprune.errors import BackendError

HALF_PRECISIONS: Mapping[str, str] = MappingProxyType({"fp16": "FLOAT16", "bf16": "BFLOAT16"})
"""Names of precisions -> ONNX's names of their types."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
_BOUNDED = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "RMSNormalization",
        "Softmax",
    }
)
_FOLLOWING_NAMES = """
Abs Add AveragePool Clip Concat DepthToSpace Div Elu Erf Expand Flatten Gather GatherElements GatherND Gelu
GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Max MaxPool Min Mish Mul Neg PRelu Pad ReduceMax ReduceMin
Relu Reshape Selu Sigmoid Sign Slice SpaceToDepth Split Squeeze Sub Swish Tanh Tile Transpose Unsqueeze Where
"""
_FOLLOWING = frozenset(_FOLLOWING_NAMES.split())


def convert_file(source: Path, target: Path, precision: str) -> None:
    """Write the model at `source` to `target` in a half precision.

    Args:
        source: an ONNX file.
        target: the file to write; large weights go to a second one beside it.
        precision: `fp16` or `bf16`.

    Raises:
        BackendError: the model has control flow, whose branches would need casts of their own.
    """
    import onnx_ir

    from fxprune.backends.onnx import save_model

    model = onnx_ir.load(source)
    convert_model(model, precision)
    save_model(model, target)


def convert_model(model: Any, precision: str) -> None:
    """Change an `onnx_ir.Model` in place; see `convert_file`."""
    import onnx_ir

    _Conversion(model.graph, onnx_ir.DataType[HALF_PRECISIONS[precision]]).run()


@dataclass(slots=True)
class _Conversion:
    """One walk over a graph: the types given so far, and the casts and constants made."""

    graph: Any
    half: Any
    types: dict[Any, Any] = field(default_factory=dict)
    made: dict[tuple[Any, Any], Any] = field(default_factory=dict)

    def run(self) -> None:
        """Convert all nodes in order, then what the graph returns."""
        import onnx_ir

        single = onnx_ir.DataType.FLOAT
        self.types = {value: single for value in self.graph.inputs if value.dtype == single}
        for node in list(self.graph):
            if any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values()):
                msg = (
                    f"the model has control flow ({node.op_type} {node.name!r}), which cannot be converted: pass "
                    "precision='fp32', or convert the module itself with .half() or .bfloat16()"
                )
                raise BackendError(msg)
            if not _is_constant(node):
                self._convert(node, single)
        self._restore_outputs(single)
        self._take_names()

    def _convert(self, node: Any, single: Any) -> None:
        """Give a node's float32 inputs the type it computes in, and note its results'."""
        floats = [index for index, value in enumerate(node.inputs) if value is not None and value.dtype == single]
        floats += [index for index, value in enumerate(node.inputs) if value in self.types and index not in floats]
        wanted, returned = self._choose(node, [node.inputs[index] for index in floats], single)
        for index in floats:
            fixed = node.op_type == "Resize" and index > 0  # its scales are float32 whatever it scales
            node.replace_input_with(index, self._as(node.inputs[index], single if fixed else wanted, node))
        for value in [value for value in node.outputs if value.dtype == single]:
            self.types[value] = value.dtype = wanted
            if returned != wanted:
                self._narrow(value, node)

    def _choose(self, node: Any, values: list[Any], single: Any) -> tuple[Any, Any]:
        """The type a node computes in, and the type its result goes on in."""
        if node.domain or node.op_type not in _PRODUCTS | _BOUNDED | _FOLLOWING:
            return single, single
        if node.op_type in _PRODUCTS:
            return self.half, self.half
        if node.op_type in _BOUNDED:
            return single, self.half
        wanted = single if any(self.types.get(value) == single for value in values) else self.half
        return wanted, wanted

    def _narrow(self, value: Any, node: Any) -> None:
        """Have every user of a float32 result take its cast to half precision."""
        uses = list(value.uses())
        narrowed = self._cast(value, self.half)
        self.graph.insert_after(node, narrowed.producer())
        for user, index in uses:
            user.replace_input_with(index, narrowed)
        self.types[narrowed] = self.half

    def _as(self, value: Any, dtype: Any, node: Any) -> Any:
        """`value` in `dtype`: itself, a converted constant, or a cast before `node`, its first user."""
        constant = None if value in self.types else _constant(value)
        if dtype == (self.types.get(value) if constant is None else value.dtype):
            return value
        if (value, dtype) not in self.made:
            if constant is None:
                self.made[value, dtype] = self._cast(value, dtype)
                self.graph.insert_before(node, self.made[value, dtype].producer())
            else:
                self.made[value, dtype] = self._initializer(value, constant, dtype)
        return self.made[value, dtype]

    def _cast(self, value: Any, dtype: Any) -> Any:
        import onnx_ir

        made = onnx_ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}_to_{dtype.name.lower()}")
        result = made.outputs[0]
        result.name, result.shape, result.dtype = made.name, value.shape, dtype
        return result

    def _initializer(self, value: Any, constant: Any, dtype: Any) -> Any:
        """A constant in another type, saturated instead of infinite."""
        import onnx_ir

        array = constant.numpy()
        if dtype == onnx_ir.DataType.FLOAT16:
            largest = np.finfo(np.float16).max
            array = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
        tensor = onnx_ir.tensor(array.astype(dtype.numpy()), dtype=dtype)
        result = onnx_ir.Value(
            name=f"{value.name}_as_{dtype.name.lower()}",
            shape=onnx_ir.Shape(array.shape),
            type=onnx_ir.TensorType(dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(result)
        return result

    def _restore_outputs(self, single: Any) -> None:
        """Cast outputs back to float32 under their own names."""
        for index, value in enumerate(self.graph.outputs):
            if self.types.get(value) != self.half:
                continue
            name = value.name
            value.name = f"{name}_inner"
            widened = self._cast(value, single)
            self.graph.append(widened.producer())
            widened.name = name
            self.graph.outputs[index] = widened

    def _take_names(self) -> None:
        """Drop constants that nobody uses any more; those made in their stead take their names."""
        for (value, _), made in self.made.items():
            if value.uses() or value in self.graph.outputs or made.producer() is not None:
                continue
            if value.name in self.graph.initializers:
                name = value.name
                del self.graph.initializers[name]
                made.name = name


def _is_constant(node: Any) -> bool:
    return node.op_type == "Constant" and not node.domain


def _constant(value: Any) -> Any:
    """The tensor of an initializer or of a `Constant`, None for what is computed."""
    import onnx_ir

    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    return onnx_ir.convenience.get_const_tensor(value) if producer is not None and _is_constant(producer) else None
