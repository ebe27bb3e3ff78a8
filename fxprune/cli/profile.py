"""`fxprune profile`: what a model costs, layer by layer."""

from __future__ import annotations

import argparse

from fxprune.cli.options import Subparsers, add_model_options, model_and_inputs, summary
from fxprune.cli.output import show


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "profile", help="print FLOPs, parameters and bytes by layer", description=summary(__doc__)
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the profile."""
    import fxprune

    model, inputs = model_and_inputs(options)
    show(fxprune.profile(model, inputs))
