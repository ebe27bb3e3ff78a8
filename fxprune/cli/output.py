"""What commands show on the terminal and leave in a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fxprune.errors import BackendError, InputError

if TYPE_CHECKING:
    from torch import nn

    from fxprune import SlimModule

__all__ = ["make_folder", "show", "write_slim", "write_text", "write_weights"]


def show(result: object) -> None:
    """Print a result: fitted to the terminal where there is one and the result can be, else as its own text."""
    if sys.stdout.isatty() and hasattr(result, "__rich__"):
        Console().print(result)
    else:
        print(result)


def make_folder(folder: Path) -> None:
    """Make sure that there is a folder, before long work whose result would have nowhere to go.

    Raises:
        InputError: There cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to the folder {folder}: {error.strerror}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text, which appears whole or not at all.

    Raises:
        BackendError: The disk is full, or `path` is a folder.
    """
    from fxprune.backends.atomic import replacing

    with replacing(path) as made:
        made.write_text(text.rstrip() + "\n", encoding="utf-8")


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a state dict as safetensors, whole or not at all.

    Raises:
        BackendError: The disk is full, or `path` is a folder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    from fxprune.backends.atomic import replacing

    with replacing(path) as made:
        try:
            save_model(model, str(made))
        except SafetensorError as error:
            raise BackendError(f"{path} cannot be written: {error}") from error
        os.umask(mask := os.umask(0))
        made.chmod(0o666 & ~mask)  # safetensors writes files that only their owner can read


def write_slim(slim: SlimModule, folder: Path, *, onnx: bool) -> list[Path]:
    """Write the decision, the report and the weights of a slim module.

    Args:
        slim: What `fxprune.compile` returned.
        folder: An existing folder; files of the same names are replaced.
        onnx: Whether to export the module too.

    Returns:
        The files written: `plan.json`, `report.txt`, `report.json`, `weights.safetensors` and, if asked for,
        `model.onnx`.
    """
    import fxprune

    texts = {
        "plan.json": slim.plan.to_json(),
        "report.txt": str(slim.report),
        "report.json": slim.report.to_json(),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    write_weights(slim, folder / "weights.safetensors")
    written = [folder / name for name in (*texts, "weights.safetensors")]
    if onnx:
        written.append(fxprune.lower(slim, "onnx", folder / "model.onnx").path)
    return written
