"""Attention without copies: views of what projections compute, instead of rearranged copies of it.

`nn.MultiheadAttention` and its like put the sequence first, take a packed projection apart by a copy, and merge batch and heads
only to split them again; each step in front of attention or of a linear layer costs a pass over memory. PyTorch's own module
escapes that by a fused kernel in eval mode, which a graph cannot say. What a graph can say is the same values without the copies.
Each rule below is an identity for any sizes, or for those that the graph itself shows:

    linear(x^T)                                     = linear(x)^T                          T: two dimensions, not the last
    copy(n of x to the front)[i]                    = x[..., i, :]                         x = unflatten(y, -1, [n, E])
    reshape(reshape(s, [L, *, D])^T, [N, H, L, D])  = permute(reshape(s, [L, N, H, D]), [1, 2, 0, 3])
    reshape(linear(reshape(p, [*, E])), [A, B, F])  = linear(reshape(p, [A, B, E]))        F: outputs of the layer
    linear(reshape(permute(s, [a, b, ..]), [A, B, E]))^T = linear(reshape(permute(s, [b, a, ..]), [B, A, E]))
                                                      (a copy between the permutation and the reshape as well)

and in the end the n parts of a packed projection are one reshape, one permutation and `unbind`. Values are the same; products may
round otherwise, as the rows of a matrix come in another order.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

from fxprune.copying import copying_graphs
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs
from fxprune.passes.sizes import Sizes, sizes_of
from fxprune.passes.strides import contiguous_outputs, keep_contiguous, looks_at_memory
from fxprune.passes.verify import compare, full_precision
from fxprune.random_state import kept_random_state

aten = torch.ops.aten


def lay_out(module: GraphModule, inputs: Inputs | None) -> None:
    """Simplify a module, unless it then computes something else.

    Args:
        module: what is changed.
        inputs: positional and keyword arguments to compare outputs on, in eval mode; None to leave that out.
    """
    former, trial = module.graph, _copied(module.graph)
    module.graph = trial
    if not simplify_layout(module):
        module.graph = former
    elif inputs is not None:
        after = _outputs(module, inputs)
        module.graph = former
        if not compare(_outputs(module, inputs), after)[1]:
            module.graph = trial


def _copied(graph: Graph) -> Graph:
    with copying_graphs():
        copied: Graph = copy.deepcopy(graph)
    return copied


def _outputs(module: GraphModule, inputs: Inputs) -> list[Any]:
    args, kwargs = inputs
    with evaluating(module), torch.no_grad(), full_precision(), kept_random_state():
        return tree_leaves(module(*args, **kwargs))


def simplify_layout(module: GraphModule, *, whole: bool = True) -> bool:
    """Rewrite a module's graph in place wherever a rule fits; whether one did.

    Args:
        module: what is changed.
        whole: whether it is what a user calls, whose outputs stay contiguous where they were.
    """
    rewriter = _Rewriter(module)
    if any(looks_at_memory(module, node) for node in module.graph.nodes):
        return False
    changed, contiguous = False, contiguous_outputs(module.graph)
    for rule in _RULES:
        for node in list(module.graph.nodes):
            changed |= not node._erased and rule(rewriter, node)
        if changed:
            module.graph.eliminate_dead_code()
    if changed:
        if whole:
            keep_contiguous(module, contiguous)
        module.graph.lint()
        module.recompile()
    return changed


@dataclass(frozen=True, slots=True)
class _Rewriter:
    """Reads and edits a module's graph."""

    module: GraphModule

    @property
    def graph(self) -> Graph:
        """The graph."""
        return self.module.graph

    def replace(self, old: Node, make: Callable[[], Node]) -> bool:
        """Have readers of a node read what is made just before it."""
        with self.graph.inserting_before(old):
            new = make()
        new.meta = {key: value for key, value in old.meta.items() if key != "origin"}
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)
        return True

    def call(self, target: Any, *args: Any) -> Node:
        """A new operation."""
        return self.graph.call_function(target, args)

    def is_linear(self, node: Any) -> bool:
        """Whether a node is a linear layer, as a module or as an operation."""
        return _is(node, aten.linear.default) or isinstance(self.layer(node), nn.Linear)

    def layer(self, node: Any) -> nn.Module | None:
        """The module that a node calls with one input and nothing else."""
        plain = isinstance(node, Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs
        return self.module.get_submodule(str(node.target)) if plain else None

    def outputs(self, linear: Node) -> int | None:
        """Number of features that a linear layer computes."""
        layer = self.layer(linear)
        if isinstance(layer, nn.Linear):
            return layer.out_features
        weight: Any = linear.args[1]
        if weight.op != "get_attr":
            return None
        path, _, name = str(weight.target).rpartition(".")
        tensor = getattr(self.module.get_submodule(path), name)
        return int(tensor.shape[0]) if isinstance(tensor, Tensor) and tensor.dim() == 2 else None

    def applied(self, linear: Node, source: Node) -> Node:
        """A linear layer, applied to something else."""
        copied = self.graph.node_copy(linear, lambda each: each)
        copied.args = (source, *linear.args[1:])
        copied.meta = {key: value for key, value in linear.meta.items() if key != "origin"}
        return copied


def _before_linear(rewriter: _Rewriter, node: Any) -> bool:
    """linear(x^T) = linear(x)^T."""
    if not rewriter.is_linear(node):
        return False
    source: Any = node.args[0]
    if not _is(source, aten.transpose.int):
        return False
    x, first, second = source.args
    rank = _rank(x)
    if rank is None or rank - 1 in {first % rank, second % rank}:
        return False
    return rewriter.replace(node, lambda: rewriter.call(aten.transpose.int, rewriter.applied(node, x), first, second))


def _part_of_packed(rewriter: _Rewriter, node: Any) -> bool:
    """copy(n of x to the front)[i] = x[..., i, :]."""
    if not _is(node, aten.select.int) or node.args[1] != 0:
        return False
    copied, index = node.args[0], node.args[2]
    squeezed = _operand(copied, aten.contiguous.default)
    moved = _operand(squeezed, aten.squeeze.dim) or _operand(squeezed, aten.squeeze.dims)
    widened = _operand(moved, aten.transpose.int)
    packed = _operand(widened, aten.unsqueeze.default)
    rank = _rank(packed)
    if not _is(packed, aten.unflatten.int) or rank is None or len(copied.args) > 1:
        return False
    if packed.args[1] not in {-1, rank - 2} or len(packed.args[2]) != 2 or widened.args[1] != 0:
        return False
    swapped = {each % (rank + 1) for each in moved.args[1:]}
    dims = squeezed.args[1] if isinstance(squeezed.args[1], list | tuple) else [squeezed.args[1]]
    if swapped != {0, rank - 1} or [each % (rank + 1) for each in dims] != [rank - 1]:
        return False
    return rewriter.replace(node, lambda: rewriter.call(aten.select.int, packed, -2, index))


def _heads(rewriter: _Rewriter, node: Any) -> bool:
    """reshape(reshape(s, [L, *, D])^T, [N, H, L, D]) = permute(reshape(s, [L, N, H, D]), [1, 2, 0, 3])."""
    turned = _operand(node, aten.reshape.default)
    merged = _operand(turned, aten.transpose.int)
    if not _is(merged, aten.reshape.default) or set(turned.args[1:]) != {0, 1}:
        return False
    source, inner = merged.args
    outer: Any = node.args[1]
    if len(inner) != 3 or len(outer) != 4 or -1 in outer or (inner[0], inner[2]) != (outer[2], outer[3]):
        return False
    batch, heads, length, size = outer
    return rewriter.replace(
        node,
        lambda: rewriter.call(
            aten.permute.default,
            rewriter.call(aten.reshape.default, source, [length, batch, heads, size]),
            [1, 2, 0, 3],
        ),
    )


def _around_linear(rewriter: _Rewriter, node: Any) -> bool:
    """reshape(linear(reshape(p, [*, E])), [A, B, F]) = linear(reshape(p, [A, B, E]))."""
    linear = _operand(node, aten.reshape.default)
    if not isinstance(linear, Node) or not rewriter.is_linear(linear) or len(linear.users) > 1:
        return False
    flat: Any = linear.args[0]
    sizes: Any = node.args[1]
    if not _is(flat, aten.reshape.default) or len(flat.args[1]) != 2 or len(sizes) < 2:
        return False
    features = flat.args[1][1]
    if sizes[-1] != rewriter.outputs(linear) or not isinstance(features, int) or features < 1 or -1 in sizes:
        return False

    def make() -> Node:
        return rewriter.applied(linear, rewriter.call(aten.reshape.default, flat.args[0], [*sizes[:-1], features]))

    return rewriter.replace(node, make)


def _after_linear(rewriter: _Rewriter, node: Any) -> bool:
    """linear(reshape(permute(s, [a, b, ..]), [A, B, E]))^T = linear(reshape(permute(s, [b, a, ..]), [B, A, E])).

    Of several linear layers in a row as well.
    """
    layers: list[Node] = []
    merged = _operand(node, aten.transpose.int)
    while isinstance(merged, Node) and rewriter.is_linear(merged) and len(merged.users) == 1:
        layers.insert(0, merged)
        merged = merged.args[0]
    order = _operand(merged, aten.reshape.default)
    if _is(order, aten.contiguous.default) and len(order.args) == 1:
        order = order.args[0]
    if not layers or not _is(order, aten.permute.default) or {each % 3 for each in node.args[1:]} != {0, 1}:
        return False
    source, places = order.args
    sizes, known = merged.args[1], _sizes(source)
    if len(places) != 4 or len(sizes) != 3 or known is None or -1 in sizes:
        return False
    first, second, *rest = places
    if list(sizes[:2]) != [known[first], known[second]]:
        return False

    def make() -> Node:
        swapped = rewriter.call(aten.permute.default, source, [second, first, *rest])
        flat = rewriter.call(aten.reshape.default, swapped, [sizes[1], sizes[0], sizes[2]])
        for each in layers:
            flat = rewriter.applied(each, flat)
        return flat

    return rewriter.replace(node, make)


def _unbound(rewriter: _Rewriter, node: Any) -> bool:
    """All parts of a packed projection by one permutation and `unbind`."""
    if not _is(node, aten.unflatten.int) or _rank(node) != 4 or node.args[1] not in {-1, 2} or len(node.args[2]) != 2:
        return False
    count: Any = node.args[2][0]
    parts = {index: final for index, final in map(_part, node.users) if final is not None}
    if set(parts) != set(range(count)) or len(node.users) != count:
        return False
    shapes = [final.args[0].args[1] for final in parts.values()]
    shape: Any = shapes[0]
    return all(each == shape for each in shapes) and _unbind(rewriter, node, [parts[at] for at in range(count)], shape)


def _part(select: Any) -> tuple[Any, Any]:
    """Which part a selection takes, and what it becomes: permute(reshape(x[..., i, :], [L, N, H, D]), [1, 2, 0, 3])."""
    reshaped = next(iter(select.users), None)
    final = next(iter(reshaped.users), None) if reshaped is not None else None
    alone = reshaped is not None and len(select.users) == 1 and len(reshaped.users) == 1
    fits = (
        _is(select, aten.select.int)
        and select.args[1] == -2
        and _is(reshaped, aten.reshape.default)
        and _is(final, aten.permute.default)
    )
    if not (alone and fits and final is not None and list(final.args[1]) == [1, 2, 0, 3]):
        return None, None
    return select.args[2], final


def _unbind(rewriter: _Rewriter, packed: Any, parts: Sequence[Node], shape: Any) -> bool:
    """Replace the parts of x = unflatten(y, -1, [n, E])."""
    source: Any = packed.args[0]
    length, batch, heads, size = shape
    leading, order = [length, batch], [2, 1, 3, 0, 4]
    if _is(source, aten.transpose.int) and {each % 3 for each in source.args[1:]} == {0, 1}:
        source, leading, order = source.args[0], [batch, length], [2, 0, 3, 1, 4]
    computed = [each for each in shape if isinstance(each, Node)]
    captured = [str(each) for each in packed.meta["origin"].meta["val"].shape[:2]]
    if not all(each < packed for each in computed) or captured != [_named(length), _named(batch)]:
        return False
    with rewriter.graph.inserting_before(packed):
        split = rewriter.call(aten.reshape.default, source, [*leading, len(parts), heads, size])
        pieces = rewriter.call(aten.unbind.int, rewriter.call(aten.permute.default, split, order), 0)
        taken = [rewriter.call(operator.getitem, pieces, at) for at in range(len(parts))]
    for old, new in zip(parts, taken, strict=True):
        old.replace_all_uses_with(new)
        rewriter.graph.erase_node(old)
    return True


def _named(size: Any) -> str:
    """A size as text: a number, or the expression that a node computed when it was captured."""
    if not isinstance(size, Node):
        return str(size)
    origin: Any = size.meta.get("origin")
    return "" if origin is None else str(origin.meta.get("val"))


def _is(node: Any, target: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target == target and not node.kwargs


def _operand(node: Any, target: Any) -> Any:
    """The first operand of a node that calls an operation; None where it does not."""
    return node.args[0] if _is(node, target) else None


def _rank(node: Any) -> int | None:
    """Number of dimensions, by what was captured."""
    origin = node.meta.get("origin") if isinstance(node, Node) else None
    value = None if origin is None else origin.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else None


def _sizes(node: Node) -> Sizes | None:
    return sizes_of(node, _sizes)


_RULES: tuple[Callable[[_Rewriter, Any], bool], ...] = (
    _before_linear,
    _part_of_packed,
    _heads,
    _around_linear,
    _after_linear,
    _unbound,
)
