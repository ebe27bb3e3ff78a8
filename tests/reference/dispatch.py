"""Which rule evaluates a call.

In-place operations go through their functional twins, unknown operations are run where every operand is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from tests.reference import (
    contractions,
    elementwise,
    norms,
    ordered,
    recurrent,
    reductions,
    spatial,
    structural,
    writing,
)
from tests.reference.calls import ALWAYS, RULES, Call, bind, intact, is_masked
from tests.reference.values import Masked, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch._ops import OpOverload

FAMILIES = (contractions, elementwise, norms, ordered, recurrent, reductions, spatial, structural, writing)


def evaluate(op: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, shortcut: bool = True) -> Any:
    """What the operation gives on masked arguments.

    Args:
        op: the operation.
        args: its positional arguments, tensors as ``Masked``.
        kwargs: its keyword arguments.
        shortcut: run the operation as it is, and bit for bit, where nothing is dead. Without it every rule is asked,
            which tests the rules.
    """
    twin = functional_twin(op)
    if twin is not None:
        return mutate(bind(op, args, kwargs), evaluate(twin, args, kwargs, shortcut=shortcut))
    call = bind(op, args, kwargs)
    found = find_rule(call)
    if not call.operands:
        return intact(call, call.run())
    if found is not None and call.name in ALWAYS:
        return found(call)
    if found is not None and not (shortcut and call.whole):
        return tree_map(laid_out, found(call), is_leaf=is_masked)
    if call.whole:
        return intact(call, call.run())
    raise NotImplementedError(str(op))


def laid_out(leaf: Any) -> Any:
    """A new value's mask in the value's order of memory; what is another name for older memory is so already."""
    return (
        leaf
        if not isinstance(leaf, Masked) or leaf.alive.stride() == leaf.value.stride()
        else spread(leaf.value, leaf.alive)
    )


def find_rule(call: Call) -> Callable[[Call], Any] | None:
    """The rule for the overload, else for the name, else the elementwise one where PyTorch calls the operation so."""
    found = RULES.get(f"{call.name}.{call.op._overloadname}", RULES.get(call.name))
    if found is None and torch.Tag.pointwise in call.op.tags:
        return elementwise.every_operand
    return found


def functional_twin(op: OpOverload) -> OpOverload | None:
    """``relu`` for ``relu_``; None for what does not write to its first argument or has no twin."""
    namespace, name = op._schema.name.split("::")
    if not op._schema.is_mutable or not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    twin: OpOverload | None = getattr(packet, op._overloadname, None)
    return twin


def mutate(call: Call, result: Masked) -> Masked:
    """Write the functional result into the first argument.

    Masks of views are views of masks, so everything else that looks at this memory sees the change, values and masks.
    """
    target = call[call.op._schema.arguments[0].name]
    assert isinstance(target, Masked)
    if target.value.shape != result.value.shape:  # squeeze_ and its like change the view, not the memory
        return result
    target.value.copy_(result.value)
    target.alive.copy_(result.alive)
    return target
