"""config.json of a cut checkpoint: the fields that say its widths and its number of layers.

The class named in the configuration is built on the meta device, without weights, from numbers that are tagged; what the
plan keeps of its parameters gives equations for the fields (`fxprune.shards.factors`). Then the layers: the field (and the
lists) that hold their number. What was found is tried: the class, built anew, has to have just the tensors of the cut
checkpoint. What a shape does not show is not changed: the dimensions of a head, and fields of which the class computes a
real number, such as a scale, because the cut model computes with the original's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.apply.slots import Slot, always, find_slots, replace
from fxprune.apply.tagged import Recorder, Tagged, evaluate, slots_of
from fxprune.errors import CheckpointError, FxpruneError
from fxprune.plan import Plan
from fxprune.shards.factors import Creations, Equation, equations
from fxprune.shards.folder import read_json
from fxprune.shards.renumber import is_below, renumbered
from fxprune.shards.scales import scaling_slots


def new_config(plan: Plan, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration of the cut checkpoint.

    Args:
        plan: what is kept.
        folder: of the checkpoint.
        shapes: name in the cut checkpoint -> shape.

    Raises:
        CheckpointError: the class is not known, or the configuration cannot say the widths.
    """
    written = read_json(folder / "config.json")
    try:
        kind, original = load(folder, written)
        config = said(kind, original, plan, shapes)
    except Exception as error:  # whatever the class makes of fields that it was not written for
        msg = (
            f"config.json cannot say what the plan makes of the model: {refusal(error)}. Plan one width per kind over all "
            "layers, only widths that it can say (plan --config), or pass keep_config=True (--keep-config) to copy it as it is"
        )
        raise CheckpointError(msg) from error
    return {**written, **_changed(original.to_dict(), config.to_dict())}


def said(kind: Any, config: Any, plan: Plan, *shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The configuration that says a plan's widths and layers.

    Args:
        kind: the class.
        config: of the original.
        plan: what is kept.
        shapes: name of a tensor after the cut -> shape, of checkpoints, which may call it by another name than the plan.

    Raises:
        CheckpointError: there is none; and whatever the class raises for fields that it refuses.
    """
    new = with_layers(kind, with_widths(kind, config, plan), plan)
    _check(kind, new, dict(_shapes(plan)), *shapes)
    return new


def refusal(error: Exception) -> str:
    """Why `said` found nothing, as part of a sentence."""
    name = "" if isinstance(error, FxpruneError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split()).rstrip(".")


def _shapes(plan: Plan) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor after the cut."""
    for name, (shape, _) in plan.signature.items():
        if not is_below(name, plan.dropped):
            kept = {dim: _count(indices) for dim, indices in plan.slices.get(plan.tied.get(name, name), {}).items()}
            yield renumbered(name, plan.dropped), tuple(kept.get(dim, size) for dim, size in enumerate(shape))


def _count(indices: Sequence[Any]) -> int:
    """Number of kept indices, in one list or in several."""
    return sum(len(each) if isinstance(each, Sequence) else 1 for each in indices)


def load(folder: Path, written: Mapping[str, Any]) -> tuple[Any, Any]:
    """The class and the configuration; code that lies in the folder is never run."""
    import transformers

    names = written.get("architectures") or [None]
    kind = getattr(transformers, str(names[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        msg = f"it names the class {names[0]!r}, which is none of Transformers"
        raise CheckpointError(msg)
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return kind, config


def with_widths(kind: Any, config: Any, plan: Plan) -> Any:
    """A copy of the configuration with the widths that the plan leaves.

    Raises:
        CheckpointError: no value of its fields does.
    """
    holder, recorder, creations = nn.Module(), Recorder(), Creations()
    holder.config = copy.deepcopy(config)
    values = find_slots(holder)
    for slot, value in values.items():
        tag = Tagged.of(value, slot, recorder)
        holder.__dict__["config"] = replace(holder.__dict__["config"], slot.steps[1:], always(tag))
    with creations:
        made = build(kind, holder.config)
    kept = {name: each for name, each in creations.of(made).items() if not is_below(name, plan.dropped)}
    wanted = list(dict.fromkeys(equations(plan, kept, values)))
    solved = solve(wanted, values)
    scaled = {slot for found in recorder.floats.values() for slot in found} | scaling_slots(made)
    _refuse_scales(wanted, values, solved, scaled)
    new = copy.deepcopy(config)
    for slot, value in solved.items():
        new = replace(new, slot.steps[1:], always(value))
    return new


def solve(wanted: list[Equation], values: Mapping[Slot, int]) -> dict[Slot, int]:
    """Fields that change, with their new values.

    Raises:
        CheckpointError: equations contradict each other, or cannot be met.
    """
    found: dict[Slot, Equation] = {}
    for each in wanted:
        if isinstance(each.expression, Slot):
            known = found.setdefault(each.expression, each)
            if known.value != each.value:
                msg = (
                    f"{_field(each.expression)} would be {known.value} by {known.name} and {each.value} by {each.name}"
                )
                raise CheckpointError(msg)
    solved = {slot: each.value for slot, each in found.items()}
    for each in wanted:
        free = [slot for slot in dict.fromkeys(slots_of(each.expression)) if slot not in solved]
        if len(free) == 1 and not _holds(each, {**values, **solved}):
            fitting = [v for v in range(1, values[free[0]]) if _holds(each, {**values, **solved, free[0]: v})]
            solved.update({free[0]: fitting[0]} if len(fitting) == 1 else {})
    for each in wanted:
        if not _holds(each, {**values, **solved}):
            fields = " and ".join(sorted({_field(slot) for slot in slots_of(each.expression)}))
            msg = f"no value of {fields} gives {each.name} the size {each.value}"
            raise CheckpointError(msg)
    return {slot: value for slot, value in solved.items() if value != values[slot]}


def _holds(equation: Equation, values: Mapping[Slot, int]) -> bool:
    try:
        return evaluate(equation.expression, values) == equation.value
    except ZeroDivisionError:
        return False


def _field(slot: Slot) -> str:
    return str(slot).removeprefix("config.")


def _refuse_scales(
    wanted: list[Equation], values: Mapping[Slot, int], solved: Mapping[Slot, int], scaled: AbstractSet[Slot]
) -> None:
    """Raise where what changes has a part in real numbers that the class computes."""
    for each in wanted:
        if each.inner and evaluate(each.expression, values) != each.value:
            msg = f"{each.name} loses dimensions within heads, and the class would compute another scale"
            raise CheckpointError(msg)
    for slot in sorted(scaled & solved.keys(), key=str):
        msg = f"the class computes a real number from {_field(slot)}, which would change with it"
        raise CheckpointError(msg)


def with_layers(kind: Any, config: Any, plan: Plan) -> Any:
    """A copy of the configuration with as many layers as the plan leaves below each parent.

    Raises:
        CheckpointError: no field of it says their number.
    """
    parents = dict.fromkeys(path.rpartition(".")[0] for path in plan.dropped)
    for parent in parents:
        wanted = {name for name in _remaining(plan) if name.startswith(f"{parent}.")}
        config = next((each for each in _shortened(config, plan, parent) if wanted == _names(kind, each, parent)), None)
        if config is None:
            msg = f"no field says how many layers {parent} has"
            raise CheckpointError(msg)
    return config


def _remaining(plan: Plan) -> Iterator[str]:
    """Names of the plan's saved tensors after the cut."""
    for name in plan.signature:
        if name not in plan.unsaved and not is_below(name, plan.dropped):
            yield renumbered(name, plan.dropped)


def _names(kind: Any, config: Any, parent: str) -> set[str]:
    try:
        names = build(kind, copy.deepcopy(config)).state_dict()
    except Exception:  # another field that has this value, which cannot be changed alone
        return set()
    return {name for name in names if name.startswith(f"{parent}.")}


def _shortened(config: Any, plan: Plan, parent: str) -> Iterator[Any]:
    """The configuration with one field of this number of layers lowered, and lists of one entry per layer shortened."""
    own = f"{parent}." if parent else ""
    children = {name[len(own) :].partition(".")[0] for name in plan.signature if name.startswith(own)}
    count = sum(child.isdecimal() for child in children)
    gone = {int(path.rpartition(".")[2]) for path in plan.dropped if path.rpartition(".")[0] == parent}
    holder = nn.Module()
    holder.config = config
    for slot in [slot for slot, value in find_slots(holder).items() if value == count]:
        made = replace(copy.deepcopy(config), slot.steps[1:], always(count - len(gone)))
        for name, value in vars(made).items():
            if isinstance(value, list) and len(value) == count:
                vars(made)[name] = [each for at, each in enumerate(value) if at not in gone]
        yield made


def build(kind: Any, config: Any) -> nn.Module:
    """The class on the meta device."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        made: nn.Module = kind._from_config(config)
    return made


def _check(kind: Any, config: Any, *wanted: Mapping[str, tuple[int, ...]]) -> None:
    """A model built from the configuration has all of these tensors that it knows the names of, and knows some of each."""
    read_back = type(config).from_dict(config.to_dict())  # which is where Transformers checks fields against each other
    made = {name: tuple(each.shape) for name, each in build(kind, read_back).state_dict().items()}
    for shapes in wanted:
        wrong = [name for name, shape in shapes.items() if name in made and made[name] != shape]
        if wrong:
            msg = f"{wrong[0]} would be {list(made[wrong[0]])}, the plan leaves {list(shapes[wrong[0]])}"
            raise CheckpointError(msg)
        if not made.keys() & shapes.keys():
            msg = f"{kind.__name__} has none of the checkpoint's tensors"
            raise CheckpointError(msg)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if name not in before or before[name] != value}
