"""What `from_pretrained` will make of a model: its class, built anew from a configuration, with its tensors.

Shapes do not tell whether that computes the same: a class may compute a scale, a table of frequencies or a normaliser from
a width that was cut. So the model that a fresh process would load is made and run. Models of ordinary size are compared in
double precision: in a model that is not trained yet, a wrong scale of attention can hide in the rounding of float32.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.apply.blueprint import Blueprint, UnbuildableError
from fxprune.apply.trial import error_of, run_plainly
from fxprune.inputs import Inputs
from fxprune.passes.double import double_inputs
from fxprune.passes.verify import TOLERANCE
from fxprune.random_state import kept_random_state

_DOUBLED = 1 << 28
"""Elements up to which a model is compared in double precision."""
_CERTAIN = 3e-6
"""Largest relative error in double precision; norms and softmax of many classes compute in float32 whatever they get."""


def reload(blueprint: Blueprint, config: Any, tensors: Mapping[str, Tensor], like: Tensor) -> nn.Module:
    """The model as it would be loaded, in eval mode.

    Args:
        blueprint: for the class.
        config: the configuration.
        tensors: its state dict.
        like: a tensor whose type and device the model gets.

    Raises:
        UnbuildableError: it cannot be loaded.
    """
    load: Any = blueprint.kind
    try:
        with _quiet(), kept_random_state(seed=None):
            made = load.from_pretrained(None, config=copy.deepcopy(config), state_dict=dict(tensors), dtype=like.dtype)
            placed: nn.Module = made.to(like.device).eval()
    except Exception as error:
        raise UnbuildableError.because(error) from error
    return placed


def same_outputs(run: Callable[[bool], list[Any]], loaded: nn.Module, inputs: Inputs) -> bool:
    """Whether a reloaded model computes the same, up to rounding.

    Args:
        run: flat outputs of what it is compared with, in double precision or not.
        loaded: the reloaded model.
        inputs: to run it on.

    Raises:
        UnbuildableError: it does not run.
    """
    if sum(parameter.numel() for parameter in loaded.parameters()) <= _DOUBLED:
        with contextlib.suppress(UnbuildableError):  # some operations (grouped products) have no double precision
            error = error_of(_run(run, True), _run(lambda precise: run_module(loaded, inputs, precise=precise), True))
            return error <= _CERTAIN / TOLERANCE[torch.float64]
    return error_of(_run(run, False), _run(lambda precise: run_module(loaded, inputs, precise=precise), False)) <= 1.0


def run_module(model: nn.Module, inputs: Inputs, *, precise: bool) -> list[Any]:
    """Flat outputs of a model in eval mode, in double precision or not; the model is not touched."""
    if not precise:
        return run_plainly(model, inputs)
    doubled: Inputs = tree_map(lambda each: double_inputs((each,))[0], inputs)
    return run_plainly(copy.deepcopy(model).double(), doubled)


def _run(run: Callable[[bool], list[Any]], precise: bool) -> list[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(precise)
    except Exception as error:
        raise UnbuildableError.because(error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar and its report of missing tensors, which the comparison speaks for."""
    logging = importlib.import_module("transformers.utils.logging")
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
