"""The user's class, built once more from its configuration with other numbers in it: what shapes it has, what it computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.blocks import outermost
from fxprune.errors import BudgetError
from fxprune.evaluating import evaluating
from fxprune.inputs import device_of
from fxprune.passes.slim import slim_graph
from fxprune.passes.verify import compare
from fxprune.plan import Plan
from fxprune.slim_module import assemble
from fxprune.widths import keep_most_important

if TYPE_CHECKING:
    from fxprune.pruning import Subject
    from fxprune.scores import Scores


def build(model: nn.Module, fields: Mapping[str, int], device: torch.device) -> nn.Module:
    """The class from the model's configuration with new values, in eval mode.

    Raises:
        BudgetError: the class refuses them.
    """
    config = copy.deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    maker: Any = type(model)
    try:
        with warnings.catch_warnings(), device:
            warnings.simplefilter("ignore")
            built: nn.Module = maker._from_config(config)
    except Exception as error:
        msg = f"{type(model).__name__} cannot be built with {dict(fields)}: {type(error).__name__}: {error}"
        raise BudgetError(msg) from error
    return built.eval()


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters, by every name that they have."""
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}


def new_names(subject: Subject) -> dict[str, str]:
    """Path of each block that stays -> the path that it has where the class is built without the others."""
    dropped = {block.name for block in subject.dropped}
    families: dict[str, list[str]] = {}
    for block in outermost(subject.whole.blocks):
        if dropped and not dropped.isdisjoint(
            each.name for each in subject.whole.blocks if each.family == block.family
        ):
            families.setdefault(block.family, []).append(block.name)
    return {
        name: old
        for names in families.values()
        for name, old in zip([each for each in names if each not in dropped], names, strict=False)
    }


def renamed(name: str, paths: Mapping[str, str]) -> str:
    """A parameter's name, with the path of its block replaced."""
    found = next((path for path in paths if name.startswith(f"{path}.")), None)
    return name if found is None else paths[found] + name[len(found) :]


def error_of(
    subject: Subject, scores: Scores, widths: Mapping[str, int], model: nn.Module, fields: Mapping[str, int]
) -> float:
    """How far the class with the new configuration, given the weights of the cut, is from what the cut computes.

    The right widths may give an error too: a class may scale by the number of dimensions that heads then have.
    """
    analysis = subject.analysis
    cut = analysis.cut(keep_most_important(analysis.groups, scores, widths))
    graph = slim_graph(analysis.program, analysis.propagation, cut)
    slim = assemble(analysis.program, graph, Plan({}, {}, {}), None)
    built = build(model, fields, device_of(model)).to(next(model.parameters()).dtype)
    paths = new_names(subject)
    weights: dict[str, Tensor] = {renamed(name, paths): each for name, each in slim.state_dict().items()}
    own = built.state_dict()
    if weights.keys() != own.keys() or any(weights[name].shape != own[name].shape for name in own):
        return float("inf")
    built.load_state_dict(weights)
    args, kwargs = slim.example_inputs
    with evaluating(slim), evaluating(built), torch.no_grad():
        outputs = slim(*args, **kwargs), built(*args, **kwargs)
    expected, actual = ([leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)][:1] for each in outputs)
    return compare(expected, actual)[0]
