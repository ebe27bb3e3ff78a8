"""Operations that only move elements: the mask moves in the same way.

They run also when all is alive, because a view's mask must be a view of the mask: writing to a slice writes to the
whole.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from tests.reference.calls import Call, is_masked, rule
from tests.reference.values import Masked, spread, uniform


@rule(
    "reshape",
    "reshape_as",
    "view",
    "view_as",
    "_unsafe_view",
    "_reshape_alias",
    "permute",
    "transpose",
    "swapaxes",
    "swapdims",
    "movedim",
    "moveaxis",
    "t",
    "numpy_T",
    "mT",
    "matrix_H",
    "cat",
    "concat",
    "stack",
    "column_stack",
    "hstack",
    "vstack",
    "dstack",
    "split",
    "split_with_sizes",
    "tensor_split",
    "hsplit",
    "vsplit",
    "dsplit",
    "chunk",
    "unsafe_chunk",
    "unsafe_split",
    "unbind",
    "slice",
    "select",
    "narrow",
    "diagonal",
    "expand",
    "expand_as",
    "broadcast_to",
    "broadcast_tensors",
    "flatten",
    "unflatten",
    "ravel",
    "squeeze",
    "unsqueeze",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "repeat",
    "tile",
    "repeat_interleave.self_int",
    "repeat_interleave.self_Tensor",
    "roll",
    "flip",
    "fliplr",
    "flipud",
    "rot90",
    "unfold",
    "meshgrid",
    always=True,
)
def moved(call: Call) -> Any:
    """The same operation on the values and on the masks."""
    values, masks = call.run(), call.run(lambda operand: operand.alive)
    return tree_map(lambda value, alive: owned(call, value, alive), values, masks)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", always=True)
def moved_numbers(call: Call) -> Masked:
    """The same, for operations that take no booleans."""
    return Masked(call.run(), call.run(lambda operand: operand.alive.double()) > 0)


@rule("view_as_complex")
def paired(call: Call) -> Masked:
    """[.., 2] to complex numbers, of which both parts or none must be alive."""
    return Masked(call.run(), uniform(call["self"].alive, (-1,), "view_as_complex").squeeze(-1))


@rule("view_as_real")
def unpaired(call: Call) -> Masked:
    """Complex numbers to [.., 2]."""
    return spread(call.run(), call["self"].alive.unsqueeze(-1))


@rule("index", "index_select", "gather", "take_along_dim", "embedding")
def fetched(call: Call) -> Masked:
    """The table's mask is read at the same positions, which must all be known."""
    table = call["weight"] if call.name == "embedding" else call["self"]
    positions = [operand for operand in call.operands if operand is not table]
    mask = call.run(lambda operand: operand.alive.double() if operand is table else operand.value) > 0
    if all(each.whole for each in positions):
        return Masked(call.run(), mask)
    assert call.name in {"gather", "take_along_dim", "embedding"}, f"{call.name}: a cut through the positions"
    alive = positions[0].alive
    return Masked(call.run(), mask & (alive.unsqueeze(-1) if call.name == "embedding" else alive))


def owned(call: Call, value: Tensor, alive: Tensor) -> Masked:
    """A mask in memory of its own where the value has memory of its own."""
    operands = [leaf for leaf in tree_leaves(call.arguments, is_leaf=is_masked) if isinstance(leaf, Masked)]
    shared = {operand.value.untyped_storage().data_ptr() for operand in operands}
    viewed = value.untyped_storage().data_ptr() in shared
    return Masked(value, alive) if viewed else spread(value, alive)
