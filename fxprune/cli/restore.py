"""`fxprune restore`: the weights of a saved slim model, checked in the model's own class."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxprune.cli.options import Subparsers, add_model_options, model_and_inputs, summary
from fxprune.cli.output import make_folder, write_weights


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "restore", help="put a saved slim model into the model's own class", description=summary(__doc__)
    )
    add_model_options(parser)
    group = parser.add_argument_group("files")
    group.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="such as slim.fxprune")
    group.add_argument("--out", type=Path, metavar="FILE", help="write its state dict here, .safetensors")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore, and say what became of the model."""
    import fxprune

    if options.out is not None:
        make_folder(options.out.parent)
    model, inputs = model_and_inputs(options)
    restored = fxprune.restore(model, options.source, example_inputs=inputs)
    before, after = (sum(each.numel() for each in made.parameters()) for made in (model, restored))
    print(f"{type(restored).__name__}: {after:,} of {before:,} parameters, agrees with the graph of {options.source}")
    for path, difference in fxprune.rewritten(restored).items():
        print(f"rewritten in {path}:\n{difference}")
    if options.out is not None:
        write_weights(restored, options.out)
        print(f"wrote {options.out}")
