"""`fxprune inspect`: what could be pruned in a model, and what holds the rest; or what a saved slim model is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fxprune.cli.options import Subparsers, add_model_options, model_and_inputs, summary
from fxprune.cli.output import show
from fxprune.drawing import SUFFIXES, draw

if TYPE_CHECKING:
    from fxprune import SlimModule


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "inspect", help="print what can be pruned together, and what cannot be and why", description=summary(__doc__)
    )
    add_model_options(parser)
    parser.epilog = "The model may be a file that fxprune.save wrote: its report is printed."
    parser.add_argument(
        "--draw", type=_drawable, metavar="FILE", help=f"draw it to a file, as its suffix says: {', '.join(SUFFIXES)}"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the analysis, and draw it where asked to; of a file, what it holds."""
    import fxprune

    if Path(options.model).is_file():
        show(describe(fxprune.load(options.model)))
        return
    model, inputs = model_and_inputs(options)
    analysis = fxprune.analyze(model, inputs)
    show(analysis)
    if options.draw is not None:
        print(f"wrote {draw(analysis, options.draw)}")


def describe(slim: SlimModule) -> str:
    """What a saved module is: its report where it has one, what it was made with, what it weighs."""
    plan, parameters = slim.plan, list(slim.parameters())
    report = slim._provenance.report
    cut = sum(kept < size for kept, size in plan.widths.values())
    types = sorted({str(each.dtype).removeprefix("torch.") for each in parameters})
    lines = [
        f"{type(slim).__name__}: {sum(each.numel() for each in parameters):,} parameters ({', '.join(types)}), "
        f"{cut} of {len(plan.widths)} groups cut",
        f"budget {dict(plan.budget)}, scorer {plan.scorer or 'unknown'}, scores {'kept' if slim.scores else 'not kept'}",
        "made with " + ", ".join(f"{name} {version}" for name, version in plan.versions.items()),
    ]
    return "\n".join([*([] if report is None else [str(report), ""]), *lines])


def _drawable(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in one of {', '.join(SUFFIXES)}")
    return path
