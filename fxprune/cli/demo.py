"""`fxprune demo`: train, prune, fine-tune, export and measure a small network on handwritten digits."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from fxprune.cli.options import Subparsers, parse_budget_options, summary
from fxprune.cli.output import make_folder
from fxprune.errors import InputError

PACKAGES = ("sklearn", "matplotlib", "onnx", "onnxruntime", "onnxscript")


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "demo", help="train, prune, export and measure a small network", description=summary(__doc__)
    )
    parser.add_argument("--out", type=Path, default=Path("fxprune-demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random (default: %(default)s)")
    parser.add_argument(
        "--budget", action="append", metavar="[METRIC=]VALUE", help="what is left at most (default: 50%% of the FLOPs)"
    )
    parser.add_argument("--epochs", type=_positive, default=12, help="of the first training (default: %(default)s)")
    parser.add_argument("--fine-tune-epochs", type=_positive, default=6, help="after pruning (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the demonstration."""
    absent = [package for package in PACKAGES if find_spec(package) is None]
    if absent:
        raise InputError(f"The demonstration needs {', '.join(absent)}: pip install 'fxprune[demo,onnx]'.")
    make_folder(options.out)
    from fxprune.demo import Settings, run_demo

    run_demo(
        Settings(
            out=options.out,
            seed=options.seed,
            budget=parse_budget_options(options.budget or ["50%"]),
            epochs=options.epochs,
            fine_tune_epochs=options.fine_tune_epochs,
        )
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
