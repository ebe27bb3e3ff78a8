"""`fxprune inspect`: what could be pruned in a model, and what holds the rest."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxprune.cli.options import Subparsers, add_model_options, model_and_inputs, summary
from fxprune.cli.output import show
from fxprune.drawing import SUFFIXES, draw


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "inspect", help="print what can be pruned together, and what cannot be and why", description=summary(__doc__)
    )
    add_model_options(parser)
    parser.add_argument(
        "--draw", type=_drawable, metavar="FILE", help=f"draw it to a file, as its suffix says: {', '.join(SUFFIXES)}"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the analysis, and draw it where asked to."""
    import fxprune

    model, inputs = model_and_inputs(options)
    analysis = fxprune.analyze(model, inputs)
    show(analysis)
    if options.draw is not None:
        print(f"wrote {draw(analysis, options.draw)}")


def _drawable(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in one of {', '.join(SUFFIXES)}")
    return path
