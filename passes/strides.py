"""What of a graph depends on how tensors lie in memory, which values alone do not say.

A rewrite that has a tensor lie in another order computes the same values, as long as nobody looks at the order:

- Operations that write to a tensor, `as_strided`, and those that are not PyTorch's own, which may take memory as they expect it,
  do look: graphs with them are better left alone. What an activation writes in place to the result of a layer or a sum that
  nobody else reads is no matter.
- Whoever calls the model does: `output.view(-1, classes)` fails unless the output is contiguous. So outputs that were stay so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from fxprune.aliasing import is_mutating

aten = torch.ops.aten

_BY_STRIDES = frozenset({aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default})
_NEW = frozenset({aten.linear.default, aten.layer_norm.default, aten.rms_norm.default})
"""Operations whose result is contiguous whatever their operands are."""


def looks_at_memory(module: GraphModule, node: Node) -> bool:
    """Whether an operation writes to a tensor that others may read, or may depend on where its operands lie."""
    target = node.target
    if isinstance(target, HigherOrderOperator):
        return True
    if isinstance(target, OpOverload):
        return target.namespace != "aten" or target in _BY_STRIDES or is_mutating(node)
    if node.op != "call_module" or not getattr(module.get_submodule(str(target)), "inplace", False):
        return False
    operand: Any = node.args[0]
    return not node.users or len(operand.users) > 1 or not _is_own(module, operand)


def _is_own(module: GraphModule, node: Node) -> bool:
    """Whether a result has memory of its own."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.Linear | nn.LayerNorm | _ConvNd | _NormBase)
    return node.target == aten.add.Tensor


def contiguous_outputs(graph: Graph) -> list[bool]:
    """Of each output of an emitted graph, whether it was contiguous in the original."""
    return [_was_contiguous(each) for each in _outputs(graph)]


def keep_contiguous(module: GraphModule, contiguous: list[bool]) -> None:
    """Have outputs that were contiguous be so again, where nodes that the original has none for may have changed that."""
    graph = module.graph
    output = graph.output_node()
    for was, node in dict.fromkeys(zip(contiguous, _outputs(graph), strict=True)):
        if was and _is_changed(module, node):
            with graph.inserting_before(output):
                output.replace_input_with(node, graph.call_function(aten.contiguous.default, (node,)))


def _outputs(graph: Graph) -> list[Any]:
    return tree_leaves(graph.output_node().args)


def _was_contiguous(node: Any) -> bool:
    origin = node.meta.get("origin") if isinstance(node, Node) else None
    value = None if origin is None else origin.meta.get("val")
    return isinstance(value, Tensor) and value.layout == torch.strided and value.is_contiguous()


def _is_changed(module: GraphModule, node: Node) -> bool:
    """Whether a result that was contiguous may not be so, because of a node that the original has none for."""
    if _is_new(module, node):
        return False
    pending, seen = [node], {node}
    while pending:
        each = pending.pop()
        if "origin" not in each.meta and each.op not in {"placeholder", "get_attr"}:
            return True
        sources = [] if _is_new(module, each) else [source for source in each.all_input_nodes if source not in seen]
        pending += sources
        seen.update(sources)
    return False


def _is_new(module: GraphModule, node: Node) -> bool:
    """Whether a result is contiguous whatever the operands are."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return node.target in _NEW or isinstance(layer, nn.Linear | nn.LayerNorm | nn.RMSNorm)
