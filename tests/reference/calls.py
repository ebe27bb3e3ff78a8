"""One operation's call with its arguments under the names of its schema, and the table of rules that evaluate calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from tests.reference.values import Masked, silence, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch._ops import OpOverload


@dataclass(frozen=True, slots=True)
class Call:
    """An ATen operation and its arguments, tensors as ``Masked``."""

    op: OpOverload
    arguments: Mapping[str, Any]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.op._schema.name.removeprefix("aten::"))

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or the default where the operation has no such argument."""
        return self.arguments.get(argument, default)

    @property
    def operands(self) -> list[Masked]:
        """All tensors among the arguments."""
        return [leaf for leaf in tree_leaves(self.arguments, is_leaf=is_masked) if isinstance(leaf, Masked)]

    @property
    def whole(self) -> bool:
        """Whether nothing is dead in any operand."""
        return all(operand.whole for operand in self.operands)

    def run(self, see: Callable[[Masked], Tensor] = lambda masked: masked.value, /, **replaced: Any) -> Any:
        """The operation itself on what ``see`` makes of each operand; ``replaced`` arguments are taken as given."""
        arguments = {
            name: tree_map(lambda leaf: see(leaf) if isinstance(leaf, Masked) else leaf, value, is_leaf=is_masked)
            for name, value in (dict(self.arguments) | replaced).items()
        }
        schema = self.op._schema.arguments
        positional = [arguments[each.name] for each in schema if not each.kwarg_only]
        return self.op(*positional, **{each.name: arguments[each.name] for each in schema if each.kwarg_only})

    def silenced(self, /, **replaced: Any) -> Any:
        """The operation with every floating-point operand's dead elements set to zero."""
        return self.run(lambda each: silence(each) if each.value.is_floating_point() else each.value, **replaced)

    def counted(self, /, **replaced: Any) -> Tensor:
        """The operation on ones for what is alive and zeros for what is dead: how many contributions are alive."""
        count = self.run(
            lambda each: each.alive.to(torch.float64) if each.value.is_floating_point() else each.value, **replaced
        )
        assert isinstance(count, Tensor)
        return count


RULES: dict[str, Callable[[Call], Any]] = {}
ALWAYS: set[str] = set()


def rule(*names: str, always: bool = False) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register a rule for operations by name, or by name and overload.

    ``always`` says that the rule is asked also when everything is alive: views must have masks that are views too.
    """

    def register(function: Callable[[Call], Any]) -> Callable[[Call], Any]:
        for name in names:
            known = RULES.get(name)
            # A test runner may import one file under two names; two rules for one name are a mistake.
            assert known is None or known.__code__.co_filename == function.__code__.co_filename, name
            RULES[name] = function
        if always:
            ALWAYS.update(names)
        return function

    return register


def is_masked(leaf: Any) -> bool:
    """Whether a tree ends here."""
    return isinstance(leaf, Masked)


def bind(op: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call with every argument of the schema named, defaults filled in."""
    schema = op._schema.arguments
    bound = {each.name: each.default_value for each in schema if each.has_default_value()}
    bound |= dict(zip((each.name for each in schema), args, strict=False)) | dict(kwargs)
    return Call(op, bound)


def intact(call: Call, result: Any) -> Any:
    """An unmasked result, all of it alive; what is an operand's own memory keeps the operand's mask."""
    return tree_map(lambda leaf: same_memory(call, leaf) or whole(leaf) if isinstance(leaf, Tensor) else leaf, result)


def same_memory(call: Call, result: Tensor) -> Masked | None:
    """The result with the mask of the operand that it is another name for (``contiguous``, ``to``, ``alias``, ...)."""
    for operand in call.operands:
        value = operand.value
        if value.data_ptr() == result.data_ptr() and value.shape == result.shape and value.stride() == result.stride():
            return Masked(result, operand.alive)
    return None
