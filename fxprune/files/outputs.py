"""What a loaded module returns in place of a class that is not there.

A model that returns an object of a class (Transformers' `CausalLMOutputWithPast`, a dataclass) does so after loading too, if
the class can be had. Otherwise it returns an `Output`: the same fields under the same names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch.utils import _pytree as pytree


class Output(OrderedDict[str, Any]):
    """Fields by name, as items and as attributes; whole numbers and slices count the fields.

    Example:
        >>> found = Output("my_models.Result", {"logits": 1.0, "state": 2.0})
        >>> found.logits, found["state"], found[0], found.class_name
        (1.0, 2.0, 1.0, 'my_models.Result')
    """

    def __init__(self, class_name: str, fields: dict[str, Any]) -> None:
        """Hold the fields of what would be an object of that class."""
        super().__init__(fields)
        self.class_name = class_name

    def __getitem__(self, key: Any) -> Any:
        """A field by its name or number."""
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def __getattr__(self, name: str) -> Any:
        """A field by its name."""
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"{self.class_name} has no field {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """How copies are made."""
        return Output, (self.class_name, dict(self.items()))


def _flatten(output: Output) -> tuple[list[Any], list[Any]]:
    return list(output.values()), [output.class_name, list(output.keys())]


def _unflatten(values: Iterable[Any], context: list[Any]) -> Output:
    class_name, names = context
    return Output(class_name, dict(zip(names, values, strict=True)))


pytree.register_pytree_node(Output, _flatten, _unflatten, serialized_type_name="fxprune.files.outputs.Output")
