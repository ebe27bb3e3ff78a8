"""A Transformers model's configuration: one value per field, where that describes all layers.

Which field decides which width is found as attributes are: the class is built once more on the meta device from a
configuration whose numbers are tagged; the sizes that its layers were built with say what they came from. What is found
is tried: a model built from the new configuration has to have the slim shapes, all of them, or the configuration's
fields stay what they were.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fxprune.apply.demands import Demand
from fxprune.apply.places import Place
from fxprune.apply.sizes import Sizes
from fxprune.apply.slots import Slot, always, find_slots, is_object, replace, write
from fxprune.apply.solve import solve
from fxprune.apply.tagged import Recorder, Tagged


def update_config(original: nn.Module, slim: nn.Module) -> str | None:
    """Update the configuration of a slim Transformers model in place.

    Returns:
        None where the configuration now describes the model (or there is none), else a note that it does not.
    """
    config = getattr(slim, "config", None)
    if not is_object(config) or not hasattr(type(slim), "_from_config"):
        return None
    if _shapes(original) == _shapes(slim):
        return None
    try:
        values = _solve(original, slim)
        made = _build(slim, copy.deepcopy(_with(config, values)))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    else:
        if _shapes(made) == _shapes(slim):
            write(slim, {Slot("", ("config", *slot.steps[1:])): value for slot, value in values.items()})
            return None
        wrong = [name for name, shape in _shapes(slim).items() if _shapes(made).get(name) != shape]
        reason = f"one value per field does not give the shape of {wrong[0] if wrong else 'every tensor'}"
    return (
        f"{type(slim).__name__}.config does not describe the slim model ({reason}): the model computes and trains, but "
        "save_pretrained will not bring it back. search='uniform' makes widths that a configuration can say"
    )


def _solve(original: nn.Module, slim: nn.Module) -> dict[Slot, int]:
    """New values of the configuration's fields."""
    recorder = Recorder()
    holder = nn.Module()
    holder.config = copy.deepcopy(original.config)
    originals = find_slots(holder)
    for slot, value in originals.items():
        tagged = Tagged.of(value, slot, recorder)
        holder.__dict__["config"] = replace(holder.__dict__["config"], slot.steps[1:], always(tagged))
    made = _build(original, holder.config)
    demands, changed = _demands(made, slim)
    return {
        slot: value
        for slot, value in solve(demands, originals, Sizes({}, {"": changed})).items()
        if value != originals[slot]
    }


def _demands(made: nn.Module, slim: nn.Module) -> tuple[list[Demand], dict[int, list[int]]]:
    """Every tagged attribute of the model built anew has to be what the slim model has."""
    demands: list[Demand] = []
    changed: dict[int, list[int]] = {}
    for path, module in made.named_modules():
        for name, value in module.__dict__.items():
            number = getattr(slim.get_submodule(path), name, None)
            if isinstance(value, Tagged) and isinstance(number, int):
                demands.append(Demand(value.expression, int(number), Place("")))
                if int(value) != number and number not in changed.setdefault(int(value), []):
                    changed[int(value)].append(int(number))
    return demands, changed


def _with(config: Any, values: Mapping[Slot, int]) -> Any:
    made = copy.deepcopy(config)
    for slot, value in values.items():
        made = replace(made, slot.steps[1:], always(value))
    return made


def _build(model: nn.Module, config: Any) -> nn.Module:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        build: Any = type(model)
        built: nn.Module = build._from_config(config)
    return built


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
