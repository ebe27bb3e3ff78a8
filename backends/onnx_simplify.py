"""ONNX models simplified by onnxsim: constants folded, operations fused and left out, what comes out still to be compared.

PyTorch's exporter optimises what it writes, and runtimes what they load. What is left to gain are chains that neither sees
through: index arithmetic of embeddings and masks, reshapes around products. A small BERT loses a quarter of its operations, a
convolutional network none; runtimes that optimise less, and people who read the graph, gain most.

onnxsim holds a model in protocol buffers, which end at 2 GiB. Weights that it folds lose their names of the `state_dict`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fxprune.backends.registry import require
from fxprune.errors import BackendError

INSTALL = "pip install 'fxprune[simplify]', or leave simplify= out"
MOST_BYTES = 1536 * 2**20
"""Weights beyond this many bytes are too much for one protocol buffer."""


def simplified(model: Any) -> tuple[Any, str]:
    """An `onnx_ir.Model` that computes the same with fewer operations, and a note that says how many fewer.

    Raises:
        BackendError: onnxsim is missing or fails, or the model is too large for it.
    """
    onnxsim = require("onnxsim", install=INSTALL)
    import onnx_ir

    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    if size > MOST_BYTES:
        raise BackendError(
            f"the weights have {size / 2**30:.1f} GiB, more than onnxsim can hold ({MOST_BYTES / 2**30:.1f} GiB): leave "
            "simplify= out"
        )
    try:
        found, _ = onnxsim.simplify(onnx_ir.to_proto(model), certify=False)
    except Exception as error:  # of its native code, without a base class
        message = " ".join(str(error).split())
        raise BackendError(f"onnxsim cannot simplify the exported model, leave simplify= out: {message}") from error
    result = onnx_ir.from_proto(found)
    if _signature(result) != _signature(model):
        raise BackendError("onnxsim changed the model's inputs or outputs, which are as before without simplify=")
    before, after = (len(list(each.graph.all_nodes())) for each in (model, result))
    return result, f"simplified by onnxsim {version('onnxsim')}: {before} operations before, {after} after"


def _signature(model: Any) -> list[tuple[str, str, str]]:
    """Name, type and shape of inputs and outputs."""
    graph = model.graph
    return [(each.name, str(each.dtype), str(each.shape)) for each in (*graph.inputs, *graph.outputs)]
