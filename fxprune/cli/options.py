"""Options that several sub-commands share: which model, and how to prune it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from fxprune.cli.inputs import ExampleInputs, parse_inputs
from fxprune.cli.models import load_model, load_named
from fxprune.errors import InputError
from fxprune.kv_cache import KVCache

if TYPE_CHECKING:
    from fxprune import SlimModule

__all__ = [
    "Subparsers",
    "add_kv_cache_option",
    "add_model_options",
    "add_pruning_options",
    "add_scoring_options",
    "blocks_to_drop",
    "known_inputs",
    "kv_cache_of",
    "model_and_inputs",
    "parse_budget_options",
    "prune",
    "scoring_arguments",
    "summary",
]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def summary(docstring: str | None) -> str:
    """Turn the docstring of a sub-command's module into what its help says.

    Example:
        >>> summary("`fxprune profile`: what a model costs, layer by layer.")
        'What a model costs, layer by layer.'
    """
    text = (docstring or "").partition(": ")[2]
    return text[:1].upper() + text[1:]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Say which model, with which weights, on which inputs."""
    group = parser.add_argument_group("model")
    group.add_argument("model", metavar="MODULE:CALLABLE", help="what makes the model: torchvision.models:resnet50")
    group.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="argument of the callable")
    group.add_argument("--weights", type=Path, metavar="FILE", help="state dict, .safetensors or .pt")
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SHAPE",
        help="example input, 1x3x224x224, 1x128:int64 or input_ids=1x128:int64, once for each; inferred if left out",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides everything random (default: %(default)s)"
    )


ONE_BUDGET = (
    '"50%%" of the FLOPs, or flops=1.8e9, params=12e6, memory="40 MB", for compile latency="3 ms"; once for each metric'
)


def add_pruning_options(parser: argparse.ArgumentParser, *, required: bool, budget_help: str = ONE_BUDGET) -> None:
    """Say how to prune; `required` tells whether the command does nothing without a budget."""
    group = parser.add_argument_group("pruning")
    group.add_argument(
        "--budget",
        action="append",
        default=[],
        required=required,
        metavar="[METRIC=]VALUE",
        help=budget_help,
    )
    group.add_argument(
        "--scorer", default="auto", metavar="NAME", help="what orders channels by importance (default: %(default)s)"
    )
    group.add_argument(
        "--ignore", action="append", default=[], metavar="PATTERN", help="module or parameter that keeps its shape"
    )
    group.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="block to drop whole (fxprune inspect lists them), or how many of the least important ones",
    )
    group.add_argument(
        "--config", action="store_true", help="only widths that the configuration of a Transformers model can say"
    )
    add_kv_cache_option(group)
    group.add_argument("--align", type=int, metavar="N", help="keep widths to multiples of N")
    group.add_argument(
        "--search", metavar="NAME", help="how widths are chosen (default: what suits the scorer, mostly knapsack)"
    )


def add_kv_cache_option(parser: argparse._ActionsContainer) -> None:
    """Say which key/value cache a budget of memory has to hold."""
    parser.add_argument(
        "--kv-cache",
        metavar="BATCHxLENGTH",
        help="of language models: memory is that of weights and a key/value cache of so many sequences of so many tokens",
    )


def kv_cache_of(options: argparse.Namespace) -> KVCache | None:
    """The value of `--kv-cache`, 8x4096.

    Raises:
        InputError: it is not two whole numbers.
    """
    text: str | None = options.kv_cache
    if text is None:
        return None
    batch, _, length = text.partition("x")
    if not batch.isdecimal() or not length.isdecimal():
        raise InputError(f"--kv-cache {text!r} is not a batch size and a length, such as 8x4096.")
    return KVCache(int(batch), int(length))


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Say what scorers may use, and what of their work is kept."""
    group = parser.add_argument_group("scoring")
    for name, meaning in (
        ("data", "batches, or a function that returns them"),
        ("loss", "(output, batch) -> scalar tensor"),
        ("score", "model -> number, higher is better"),
        ("collect", "batch -> inputs, where a batch is not what the model takes"),
    ):
        group.add_argument(f"--{name}", metavar="MODULE:NAME", help=meaning)
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="keep finished work here, and go on from it")
    group.add_argument("--scores", type=Path, metavar="FILE", help="scores of an earlier run, instead of scoring again")
    group.add_argument("--save-scores", type=Path, metavar="FILE", help="write the scores here, for other budgets")


def scoring_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `compile` that `add_scoring_options` describes, those that were given."""
    if not hasattr(options, "checkpoint"):
        return {}
    found = {
        "data": load_named(options.data, "data", call=True),
        **{name: load_named(getattr(options, name), name, call=False) for name in ("loss", "score", "collect")},
        "checkpoint": options.checkpoint,
        "scores": options.scores,
    }
    return {name: each for name, each in found.items() if each is not None}


def model_and_inputs(options: argparse.Namespace) -> tuple[nn.Module, ExampleInputs | None]:
    """Make the model and the example inputs that `add_model_options` describes."""
    torch.manual_seed(options.seed)
    inputs = parse_inputs(options.input, torch.Generator().manual_seed(options.seed))
    return load_model(options.model, options.arg, options.weights), inputs


def known_inputs(model: nn.Module, inputs: ExampleInputs | None) -> object:
    """Return the example inputs given, or else those that are inferred from the model, for functions that need them."""
    from fxprune.inputs import find_inputs

    if inputs is not None:
        return inputs
    (args, kwargs), _ = find_inputs(model, None)
    return args or kwargs


def parse_budget_options(texts: Sequence[str]) -> str | dict[str, str]:
    """Join the values of `--budget`.

    Example:
        >>> parse_budget_options(["50%"])
        '50%'
        >>> parse_budget_options(["flops=50%", "params=12e6"])
        {'flops': '50%', 'params': '12e6'}
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    budget: dict[str, str] = {}
    for text in texts:
        metric, equals, value = text.partition("=")
        if not equals or metric in budget:
            given = " ".join(f"--budget {other!r}" for other in texts)
            raise InputError(
                "Several budgets name their metric, each once, such as --budget flops=50% --budget params=12e6. "
                f"Given: {given}."
            )
        budget[metric] = value
    return budget


def blocks_to_drop(texts: Sequence[str]) -> list[str] | int:
    """The values of `--drop`: names and patterns, or one number.

    Example:
        >>> blocks_to_drop(["layers.3", "layers.5"]), blocks_to_drop(["2"])
        (['layers.3', 'layers.5'], 2)
    """
    numbers = [text for text in texts if text.isdecimal()]
    if numbers and len(texts) > 1:
        msg = (
            f"--drop is given {len(texts)} times, and {numbers[0]!r} is a number: name blocks, or give one number alone"
        )
        raise InputError(msg)
    return int(numbers[0]) if numbers else list(texts)


def prune(model: nn.Module, inputs: ExampleInputs | None, options: argparse.Namespace) -> SlimModule:
    """Compile `model` as `add_pruning_options` describes."""
    import fxprune

    return fxprune.compile(
        model,
        parse_budget_options(options.budget),
        example_inputs=inputs,
        scorer=options.scorer,
        ignore=options.ignore,
        align=options.align,
        drop=blocks_to_drop(options.drop),
        config=options.config,
        kv_cache=kv_cache_of(options),
        search=options.search,
        seed=options.seed,
        **({"backend": options.timed_on} if getattr(options, "timed_on", None) else {}),
        **scoring_arguments(options),
    )
