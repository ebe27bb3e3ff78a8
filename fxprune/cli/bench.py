"""`fxprune bench`: how long a model takes on each backend and, given a budget, how much faster pruning makes it."""

from __future__ import annotations

import argparse

from torch import nn

from fxprune.cli.lowering import backend_options
from fxprune.cli.options import (
    Subparsers,
    add_model_options,
    add_pruning_options,
    known_inputs,
    model_and_inputs,
    prune,
    summary,
)
from fxprune.cli.output import show

DEFAULT_BACKENDS = ("eager", "onnxruntime")


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "bench", help="measure latency, before and after pruning", description=summary(__doc__)
    )
    add_model_options(parser)
    add_pruning_options(parser, required=False)
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"where to measure, once for each (default: {' and '.join(DEFAULT_BACKENDS)})",
    )
    group.add_argument("--backends", metavar="NAMES", help="the same in one: eager,inductor,onnxruntime,tensorrt")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="BACKEND.NAME=VALUE",
        help="option of a backend, such as inductor.mode=max-autotune, once for each",
    )
    group.add_argument(
        "--batch-size",
        action="append",
        type=int,
        metavar="N",
        help="repeat the example input to this batch, once for each",
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's setting)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the model, and its pruned form beside it, and print the table."""
    import fxprune

    backends = [*(options.backend or []), *filter(None, (options.backends or "").split(","))]
    lowering = backend_options(options.option)
    model, inputs = model_and_inputs(options)
    modules: dict[str, nn.Module] = {"original": model}
    if options.budget:
        modules["pruned"] = prune(model, inputs, options)
    table = fxprune.bench(
        modules,
        backends or DEFAULT_BACKENDS,
        example_inputs=known_inputs(model, inputs),
        batch_sizes=options.batch_size,
        threads=options.threads,
        options=lowering,
    )
    show(table)
