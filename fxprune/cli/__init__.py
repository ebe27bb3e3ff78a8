"""The `fxprune` command."""

from fxprune.cli.main import main

__all__ = ["main"]
