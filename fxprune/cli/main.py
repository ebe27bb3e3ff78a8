"""The `fxprune` command: which sub-commands there are, and what their ends mean to the shell.

Every sub-command is a module of this package with `add(subparsers)`, which describes it, and a function that runs it.
Exit codes: 0 done; 1 a bug, with its traceback; 2 the user can mend it, said in one message; 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.text import Text

from fxprune.cli import apply as apply_command
from fxprune.cli import bench, demo, export, profile, restore, sweep
from fxprune.cli import compile as compile_command
from fxprune.cli import inspect as inspect_command
from fxprune.cli import plan as plan_command
from fxprune.errors import FxpruneError

COMMANDS = (
    inspect_command,
    profile,
    compile_command,
    restore,
    sweep,
    apply_command,
    plan_command,
    export,
    bench,
    demo,
)
USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; the process's own arguments if None.

    Returns:
        The exit code.
    """
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except (FxpruneError, OSError) as error:
        if options.traceback:
            raise
        _complain(error)
        return USER_ERROR
    except KeyboardInterrupt:
        if options.traceback:
            raise
        _complain("Interrupted.")
        return INTERRUPTED
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Describe the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fxprune",
        description="Prune PyTorch models to a budget: smaller dense models that train and export like any other.",
    )
    parser.add_argument("--version", action="version", version=f"fxprune {_version()}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    for subparser in subparsers.choices.values():
        subparser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def _complain(error: Exception | str) -> None:
    message = str(error) or type(error).__name__
    notes = getattr(error, "__notes__", ())
    text = Text("\n".join(["error: " + message, *notes]), style="red")
    Console(stderr=True).print(text, soft_wrap=True)


def _version() -> str:
    try:
        return version("fxprune")
    except PackageNotFoundError:
        return "(not installed)"
