"""`fxprune inspect`: what could be pruned in a model, and what holds the rest."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxprune.cli.drawing import DRAWERS, check_format, draw
from fxprune.cli.options import Subparsers, add_model_options, model_and_inputs, summary
from fxprune.cli.output import show


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "inspect", help="print what can be pruned together, and what cannot be and why", description=summary(__doc__)
    )
    add_model_options(parser)
    parser.add_argument(
        "--draw", type=Path, metavar="FILE", help=f"write the coupling graph to a file: {', '.join(DRAWERS)}"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the analysis, and draw it where asked to."""
    import fxprune

    if options.draw is not None:
        check_format(options.draw)
    model, inputs = model_and_inputs(options)
    analysis = fxprune.analyze(model, inputs)
    show(analysis)
    if options.draw is not None:
        draw(analysis.graph, options.draw)
        print(f"graph written to {options.draw}")
