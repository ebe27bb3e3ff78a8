"""`fxprune plan`: decide what to keep of a model without its weights, for `fxprune apply`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from fxprune.budget import format_amount
from fxprune.cli.inputs import parse_inputs
from fxprune.cli.models import load_model
from fxprune.cli.options import Subparsers, add_kv_cache_option, kv_cache_of, parse_budget_options, summary
from fxprune.cli.output import make_folder
from fxprune.errors import CheckpointError, InputError
from fxprune.planning import Planned, choose, survey
from fxprune.scores import Scores

CONFIGURED = "transformers:"


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser("plan", help="decide what to keep, without weights", description=summary(__doc__))
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="transformers:DIR, a folder with config.json, or module:callable; built on the meta device",
    )
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="argument of the callable")
    parser.add_argument("--input", action="append", default=[], metavar="SHAPE", help="as for fxprune compile")
    parser.add_argument(
        "--budget", action="append", required=True, metavar="[METRIC=]VALUE", help="as for fxprune compile"
    )
    add_kv_cache_option(parser)
    parser.add_argument("--scores", type=Path, metavar="FILE", help="what to keep; else the first indices")
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN", help="what keeps its shape")
    parser.add_argument("--drop", action="append", default=[], metavar="PATTERN", help="block to drop whole")
    parser.add_argument("--align", type=int, metavar="N", help="keep widths to multiples of N")
    parser.add_argument("--keep", action="append", default=[], metavar="PATTERN", help="groups that stay whole")
    parser.add_argument(
        "--config", action="store_true", help="only widths that the configuration of a Transformers model can say"
    )
    parser.add_argument(
        "--search", default="uniform", metavar="NAME", help="how widths are chosen (default: %(default)s)"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the plan, such as plan.json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Plan, write the plan, and say what it leaves."""
    make_folder(options.out.parent)
    model = model_on_meta(options.model, options.arg)
    inputs = parse_inputs(options.input, torch.Generator())
    subject = survey(model, inputs, ignore=options.ignore, drop=options.drop, kv_cache=kv_cache_of(options))
    floor = {**dict.fromkeys(options.keep, 1.0)} or None
    scores = None if options.scores is None else Scores.load(options.scores)
    budget = parse_budget_options(options.budget)
    made = choose(
        model,
        subject,
        budget,
        scores,
        align=options.align,
        floor=floor,
        search=options.search,
        config=options.config,
    )
    made.plan.save(options.out)
    print(f"{_describe(made)}\nwrote {options.out}")


def model_on_meta(source: str, arguments: list[str]) -> nn.Module:
    """The model that `source` names, without weights.

    Args:
        source: `transformers:DIR`, the folder (or file) of a configuration, or `module:callable`.
        arguments: of the callable.

    Raises:
        InputError: there is no such model.
    """
    folder = Path(source.removeprefix(CONFIGURED))
    if source.startswith(CONFIGURED) and folder.exists():
        return _configured(folder.parent if folder.is_file() else folder)
    with torch.device("meta"):
        return load_model(source, arguments)


def _configured(folder: Path) -> nn.Module:
    from fxprune.shards.configuration import build, load
    from fxprune.shards.folder import read_json

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json.")
    try:
        kind, config = load(folder, read_json(folder / "config.json"))
        model: nn.Module = build(kind, config)
    except CheckpointError as error:
        raise InputError(f"{folder / 'config.json'} cannot be built: {error}.") from error
    return model.eval()


def _describe(made: Planned) -> str:
    kept = [f"kept whole: {name}, {reason}" for name, reason in made.held.items()]
    costs = [
        f"{metric}: {format_amount(metric, made.after[metric])} of {format_amount(metric, before)} "
        f"({made.after[metric] / before:.1%})"
        for metric, before in made.before.items()
    ]
    return "\n".join([*costs, *kept])
