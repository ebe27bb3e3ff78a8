"""A Transformers model's configuration: rewritten so that it describes the slim model, where it can.

Which values give the slim sizes is asked of the class (`fields`, `blueprint`). What is found is tried as a fresh process
would: the class is built from the new configuration, given the slim tensors, run on the example inputs, and compared
with the copy. Only then is the copy's configuration changed, all of it at once: fields that the configuration computes from
others come along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from fxprune.apply.blueprint import Sizes, UnbuildableError, adopt, blueprint_of, sizes_of
from fxprune.apply.fields import Decisions, find_fields
from fxprune.apply.reload import reload, run_module, same_outputs
from fxprune.apply.slots import Slot
from fxprune.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Unsayable:
    """A configuration cannot describe a slim model, and why."""

    model: str
    reason: str

    def __str__(self) -> str:
        """For the user."""
        return (
            f"{self.model}.config does not describe the slim model ({self.reason}): the model computes and trains, but "
            "save_pretrained will not bring it back. fxprune.compile(..., config=True) keeps to widths that it can say"
        )


def update_config(original: nn.Module, slim: nn.Module, inputs: Inputs, used: Mapping[Slot, int]) -> Unsayable | None:
    """Rewrite the configuration of a slim copy in place, where it can describe the copy.

    Args:
        original: the Transformers model, or any other.
        slim: the finished copy.
        inputs: what to compare on.
        used: numbers that the copy's forward uses.

    Returns:
        None where the configuration now describes the copy, or there is none.
    """
    blueprint = blueprint_of(original)
    if blueprint is None:
        return None
    kind = type(original).__name__
    try:
        unchanged = blueprint.sizes({})
        decisions = Decisions(blueprint, sizes_of(original))
        fields = find_fields(decisions, slim, used)
        if fields is None:
            refused = "".join(f"; its class refuses some values: {each}" for each in decisions.refusals[:1])
            return Unsayable(kind, f"one value per field does not give the shape of every tensor{refused}")
        made = blueprint.with_fields(fields)
        loaded = reload(blueprint, made, slim.state_dict(), next(slim.parameters()))
        same = same_outputs(lambda precise: run_module(slim, inputs, precise=precise), loaded, inputs)
    except UnbuildableError as error:
        return Unsayable(kind, str(error))
    if not same:
        said = ", ".join(f"{'.'.join(name)}={value}" for name, value in fields.items())
        return Unsayable(kind, f"a model built with {said} computes something else")
    adopt(slim.config, blueprint.with_fields({}), made)
    _follow(slim, sizes_of(original), unchanged, sizes_of(loaded))
    return None


def _follow(slim: nn.Module, original: Sizes, unchanged: Sizes, loaded: Sizes) -> None:
    """Whole numbers that modules take from the configuration and have not used on the inputs.

    A language model keeps the number of its experts for the loss that balances them.
    """
    for (path, name), value in sizes_of(slim).items():
        key = path, name
        if isinstance(name, str) and value == original.get(key) == unchanged.get(key) != loaded.get(key, value):
            setattr(slim.get_submodule(path), name, loaded[key])
