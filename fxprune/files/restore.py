"""`restore`: the user's own class, slimmed, with the weights of a file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.apply import apply
from fxprune.apply.belonging import check_signature
from fxprune.errors import CannotApply, CheckpointError, InputError
from fxprune.files.load import load
from fxprune.files.plan_file import is_archive, load_plan
from fxprune.files.state import named_tensors
from fxprune.inputs import find_inputs
from fxprune.plan import Plan
from fxprune.slim_module import SlimModule

Module = TypeVar("Module", bound=nn.Module)


def restore(model: Module, source: str | PathLike[str] | Plan, *, example_inputs: Any = None) -> Module:
    """The user's own class, slimmed, with the weights of a file.

    Args:
        model: a new instance of the class that was compiled, of the original sizes, on the device that the result is to
            be on. It is copied, never changed; the copy shares no memory with it.
        source: a file that `save` wrote; or a plan, or a file of one (`Plan.save`), for the weights of `model`, sliced.
        example_inputs: what to check the copy on; None for those in the file, or those that can be inferred.

    Returns:
        The copy, as `apply` makes it: same class, hooks, tied weights and state dict keys. Weights, training flags and
        `requires_grad` are the file's (with a plan, the model's). It can be trained on and saved again; names and order
        of its parameters are those that it was saved with, so that an optimizer's state fits.

    Raises:
        CheckpointError: the file is not intact, or of another model: names the first parameter, what it has to be and what
            it is.
        CannotApply: the class's own Python cannot follow the cut.
        InputError: `source` is none of these, or example inputs are missing.
    """
    if isinstance(source, Plan):
        return apply(source, model, example_inputs=example_inputs)
    if not isinstance(source, str | PathLike):
        msg = f"restore takes the model, then a path or a Plan: restore(model, 'slim.fxprune'); got a {type(source).__name__}"
        raise InputError(msg)
    path = Path(source)
    if not is_archive(path):
        return apply(load_plan(path), model, example_inputs=example_inputs)
    check_signature(load_plan(path), model)  # before the weights are read
    slim = load(path, device=_device(model))
    inputs = _inputs(slim, model, example_inputs)
    try:
        made = apply(slim, model, example_inputs=inputs)
    except CannotApply as error:
        if not _follows(slim, model, inputs):
            raise
        msg = f"{path} is not intact: its graph computes something else than a {type(model).__name__} cut by its plan"
        raise CheckpointError(msg) from error
    _take_flags(made, slim)
    return made


def _follows(slim: SlimModule, model: nn.Module, inputs: Any) -> bool:
    """Whether the class can be cut as the file's plan says, so that what disagrees is the file's graph."""
    if inputs is None:
        args, kwargs = slim.example_inputs
        inputs = args or kwargs
    try:
        apply(slim.plan, model, example_inputs=inputs, config=False)
    except CannotApply:
        return False
    return True


def _device(model: nn.Module) -> torch.device:
    first = next(iter(named_tensors(model).values()), None)
    return torch.device("cpu") if first is None else first.device


def _inputs(slim: SlimModule, model: nn.Module, given: Any) -> Any:
    if given is not None or slim._provenance.example_inputs is not None:
        return given
    (args, kwargs), _ = find_inputs(model, None)
    return args or kwargs


def _take_flags(made: nn.Module, slim: SlimModule) -> None:
    """Training flags and `requires_grad` as they were saved."""
    modules = dict(slim.named_modules(remove_duplicate=False))
    for path, module in made.named_modules(remove_duplicate=False):
        if path in modules:
            module.training = modules[path].training
    saved = named_tensors(slim)
    for name, parameter in made.named_parameters(remove_duplicate=False):
        if name in saved:
            parameter.requires_grad_(saved[name].requires_grad)
