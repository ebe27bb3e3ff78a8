"""`fxprune apply`: cut a checkpoint of safetensors files by a plan, file by file."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxprune.budget import format_amount
from fxprune.cli.options import Subparsers, summary
from fxprune.errors import InputError
from fxprune.plan import Plan
from fxprune.shards import CutCheckpoint


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser("apply", help="cut a checkpoint by a plan", description=summary(__doc__))
    parser.add_argument("plan", type=Path, metavar="PLAN", help="plan.json, of fxprune compile or fxprune plan")
    parser.add_argument("source", type=Path, metavar="CHECKPOINT_DIR", help="folder with *.safetensors, sharded or not")
    parser.add_argument("target", type=Path, metavar="OUT_DIR", help="folder to make; an interrupted run goes on")
    parser.add_argument(
        "--keep-config", action="store_true", help="copy config.json as it is, instead of rewriting its widths"
    )
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that the plan's model does not have, to be kept as they are",
    )
    parser.add_argument(
        "--any-dtype", action="store_true", help="cut tensors of other types than the plan was made with"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Cut, and say what was made."""
    import fxprune

    made = fxprune.apply_to_checkpoint(
        read_plan(options.plan),
        options.source,
        options.target,
        keep_config=options.keep_config,
        extra=options.extra,
        any_dtype=options.any_dtype,
    )
    print(_describe(made))


def read_plan(path: Path) -> Plan:
    """A plan from a file.

    Raises:
        InputError: there is none.
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        raise InputError(f"There is no plan at {path}.")
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no plan: {error}.") from error


def _describe(made: CutCheckpoint) -> str:
    sizes = f"{format_amount('memory', made.size)} of {format_amount('memory', made.original)}"
    files = f"{len(made.files)} {'file' if len(made.files) == 1 else 'files'}"
    resumed = f", {len(made.resumed)} of them by an interrupted run" if made.resumed else ""
    return "\n".join([f"wrote {made.path} ({sizes} in {files}{resumed})", *(f"  note: {each}" for each in made.notes)])
